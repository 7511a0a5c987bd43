import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { IMAGE } from './support.js';

test('what the README shows runs, and prints what it says', async (t) => {
  const text = await readFile(new URL('../README.md', import.meta.url), 'utf8');
  const blocks = [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code]) => code);
  assert.equal(blocks.length, 2);
  // In the package, whose name it imports; and with the image that is quick to make.
  const path = fileURLToPath(new URL(`scripts/readme-${process.pid}.mts`, import.meta.url));
  await writeFile(path, blocks.join('').replaceAll("'debian'", `'${IMAGE}'`));
  t.after(() => rm(path));
  const child = spawn(process.execPath, ['--import', 'tsx', path], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.on('data', (piece) => {
    said += piece;
  });
  const [code] = await once(child, 'close');
  assert.equal(code, 0);
  assert.match(said, /^Linux .*\n 0 Hello, you\n\n1\n2\n3\n\d+ \S+ true\n$/);
});
