import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import { describe, expect, test } from '@jest/globals'
import { nativeBindingFault } from '../../drivers/sftp/native-binding.ts'

const binding = createRequire(import.meta.url).resolve('ssh2/lib/protocol/crypto/build/Release/sshcrypto.node')

describe('the native binding', () => {
  test('is loaded here, and where it is not the fault says which command mends it', () => {
    expect(nativeBindingFault()).toBeNull()
    const missing = () => {
      throw Object.assign(new Error('no'), { code: 'MODULE_NOT_FOUND' })
    }
    expect(nativeBindingFault(missing)).toMatch(/not built.*npm run postinstall/)
  })

  test.each(['AESGCMCipher', 'AESGCMDecipher', 'ChaChaPolyCipher', 'ChaChaPolyDecipher'])(
    'outlives the collection of each %s that a connection left',
    async (name) => {
      const given = name.startsWith('AES') ? "'aes-128-gcm', Buffer.alloc(16), Buffer.alloc(12)" : 'Buffer.alloc(64)'
      const use = `const { ${name} } = require(${JSON.stringify(binding)})
      for (let count = 0; count < 20_000; count++) new ${name}(${given})
      console.log('alive')`
      // Where a destructor fails, Node aborts: exit code 134.
      expect(await promisify(execFile)(process.execPath, ['-e', use])).toMatchObject({ stdout: 'alive\n' })
    }
  )
})
