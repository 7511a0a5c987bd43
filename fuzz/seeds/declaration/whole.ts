import * as mvm from '@mvm/sdk';

const PACKAGES = ['nodejs', 'git'] as const;
const PORT: number = 8_000;

export const serve = mvm.app({
  name: 'web',
  source: mvm.localPath('.', { include: [`**/*.py`], exclude: ['tests/**'] }),
  image: mvm.debian({ packages: PACKAGES }), // comments are anywhere
  resources: mvm.resources({ cpus: 2, memoryMib: 0x200, diskMib: 4_096 }),
  network: mvm.network({ mode: 'deny', ports: [mvm.port({ guest: PORT, host: (8080) })] }),
  env: { LANG: mvm.literal('\u{43}\n'), 'TOKEN': mvm.secret('env:TOKEN'), 'A/B': mvm.literal('a\\b') },
  entrypoint: mvm.entrypointFunction({ module: 'app', function: 'serve' }),
  profile: 'standard' satisfies string,
  ttlMs: 3600500,
  onExpiry: 'destroy',
})(async () => {});
