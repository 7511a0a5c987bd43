// How Node.js finds and loads modules of TypeScript whose types were taken out when the image was built.

/** What declares workloads, where it is not installed: its functions do nothing. */
const SDK = ['@mvm/sdk', new URL('./sdk.ts', import.meta.url).href];
const MISSING = ['ERR_MODULE_NOT_FOUND', 'ERR_UNSUPPORTED_DIR_IMPORT'];

export async function resolve(specifier, context, next) {
  try {
    return await next(specifier, context);
  } catch (error) {
    if (!MISSING.includes(error.code)) throw error;
    if (specifier === SDK[0]) return { url: SDK[1], shortCircuit: true };
    if (!/^\.{0,2}\//.test(specifier)) throw error;
    for (const other of others(specifier)) {
      const found = await next(other, context).catch(() => null);
      if (found) return found;
    }
    throw error;
  }
}

/** What a compiler takes a path for, too. */
function others(path) {
  const named = path.replace(/\.(m?)js$/, '.$1ts');
  return named === path ? [`${path}.ts`, `${path}/index.ts`] : [named];
}

export function load(url, context, next) {
  return next(url, /\.m?ts$/.test(new URL(url).pathname) ? { ...context, format: 'module' } : context);
}
