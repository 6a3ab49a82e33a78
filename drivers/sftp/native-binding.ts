/** Whether ssh2's native code is in use. It says nothing itself where it is not, and goes on in JavaScript. */
import { createRequire } from 'node:module'

/** Where ssh2 looks for it, and passes over it in silence. */
const BINDING = 'ssh2/lib/protocol/crypto/build/Release/sshcrypto.node'

/** What is wrong and which command mends it; null when the binding is loaded. */
export function nativeBindingFault(load: (path: string) => unknown = createRequire(import.meta.url)): string | null {
  try {
    load(BINDING)
    return null
  } catch (error) {
    const reason =
      (error as { code?: string }).code === 'MODULE_NOT_FOUND' ? 'it is not built' : 'it is of another Node'
    return `ssh2's native binding is not loaded (${reason}), and copies are about a third slower: install a C++ compiler and Python, then run "npm run postinstall" in Longshore's folder`
  }
}
