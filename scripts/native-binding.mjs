// Makes sure that ssh2's native crypto binding works under the Node that runs Longshore.
// npm builds it for the Node that runs npm; under another one it fails to load and ssh2 silently
// falls back to a cipher object per packet, a third slower, and with the headers of some it aborts the
// process later (see object-wrap.h). Runs after every install; a failure is a warning only, because
// everything works without the binding.
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const require = createRequire(import.meta.url)
const cryptoDir = join(dirname(require.resolve('ssh2/package.json')), 'lib/protocol/crypto')
const binding = join(cryptoDir, 'build/Release/sshcrypto.node')

/** Whether the binding loads and outlives the garbage collection of what it made, tried in a process of its own. */
function works() {
  // As many as several collections take; one that is asked for by gc() passes with a faulty binding, too.
  const use = `const { AESGCMDecipher } = require(${JSON.stringify(binding)})
    for (let count = 0; count < 20_000; count++) new AESGCMDecipher('aes-128-gcm', Buffer.alloc(16), Buffer.alloc(12))`
  return spawnSync(process.execPath, ['-e', use]).status === 0
}

/** The folder whose `include/node` holds the headers of this very Node, or undefined. */
function headersFolder() {
  const folders = [dirname(dirname(process.execPath))]
  try {
    folders.push(dirname(require.resolve(`node-${process.platform}-${process.arch}/package.json`)))
  } catch {
    // The platform's package is optional: node-gyp then fetches the headers itself.
  }
  return folders.find((folder) => existsSync(join(folder, 'include/node/node.h')))
}

/** npm carries a node-gyp of its own; a package's script finds it on PATH, the root's does not. */
function nodeGyp() {
  const npmCli = process.env.npm_execpath ?? ''
  const bundled = join(dirname(dirname(npmCli)), 'node_modules/node-gyp/bin/node-gyp.js')
  return existsSync(bundled) ? [process.execPath, bundled] : ['node-gyp']
}

if (!works()) {
  const headers = headersFolder()
  const [program, ...leading] = nodeGyp()
  const args = [
    ...leading,
    'rebuild',
    `--target=${process.version}`,
    `--real_openssl_major=${process.versions.openssl.split('.')[0]}`,
    ...(headers ? [`--nodedir=${headers}`] : [])
  ]
  const withoutHooks = `-include ${JSON.stringify(join(import.meta.dirname, 'object-wrap.h'))}`
  const env = { ...process.env, CXXFLAGS: `${process.env.CXXFLAGS ?? ''} ${withoutHooks}`.trim() }
  if (headers) env.npm_config_nodedir = headers
  const built = spawnSync(program, args, { cwd: cryptoDir, encoding: 'utf8', env })
  if (works()) console.log(`ssh2's native binding was built for Node ${process.version}`)
  else {
    // ssh2 loads whatever is there, and one that aborts the process is worse than none.
    rmSync(binding, { force: true })
    console.warn(
      `warning: ssh2's native binding could not be built for Node ${process.version}; copies are about a third slower.`
    )
    console.warn((built.stderr || String(built.error ?? '')).trim().split('\n').slice(-5).join('\n'))
  }
}
