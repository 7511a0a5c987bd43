// How Node.js finds and loads modules of TypeScript whose types were taken out when the image was built.

/** What declares workloads, where it is not installed: its functions do nothing. */
const SDK = ['@mvm/sdk', new URL('./sdk.mjs', import.meta.url).href];

export async function resolve(specifier, context, next) {
  try {
    return await next(specifier, context);
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    if (specifier === SDK[0]) return { url: SDK[1], shortCircuit: true };
    if (!/^\.{0,2}\//.test(specifier)) throw error;
    // To a compiler `./lib` and `./lib.js` are `./lib.ts`, too.
    return next(`${specifier.replace(/\.js$/, '')}.ts`, context).catch(() => Promise.reject(error));
  }
}

export function load(url, context, next) {
  return next(url, /\.m?ts$/.test(new URL(url).pathname) ? { ...context, format: 'module' } : context);
}
