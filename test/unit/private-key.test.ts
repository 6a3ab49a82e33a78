import { generateKeyPairSync } from 'node:crypto'
import { describe, expect, test } from '@jest/globals'
import { newSshKey } from '../../demo/ssh-key.ts'
import { readPrivateKey } from '../../drivers/sftp/private-key.ts'

const passphrase = 'canary-passphrase'
const encrypted = (rounds: number) => newSshKey({ passphrase, cipher: 'aes256-ctr', rounds }).private
const pem = (type: 'pkcs1' | 'pkcs8', more = {}) =>
  generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type, format: 'pem', ...more } as never
  }).privateKey as string
const locked = { cipher: 'aes-128-cbc', passphrase }

/** What is wrong with it, or null. */
function faultOf(text: string, given?: string) {
  const read = readPrivateKey(text, given)
  return 'fault' in read ? read.fault : null
}

describe('readPrivateKey', () => {
  test.each([
    ["OpenSSH's format", newSshKey().private, undefined],
    ["OpenSSH's format, encrypted", encrypted(4), passphrase],
    ["OpenSSH's format with a passphrase that it does not need", newSshKey().private, passphrase],
    ['PEM', pem('pkcs1'), undefined],
    ['PEM, encrypted', pem('pkcs1', locked), passphrase],
    ['PEM with the line ends of Windows', pem('pkcs1').replaceAll('\n', '\r\n'), undefined]
  ])('opens a key in %s', (_format, text, given) => {
    const read = readPrivateKey(text, given)
    expect('key' in read && read.key.isPrivateKey()).toBe(true)
  })

  test.each([
    ['OpenSSH', encrypted(4)],
    ['PEM', pem('pkcs1', locked)]
  ])('names the passphrase that is missing or wrong, %s', (_format, text) => {
    expect(faultOf(text)).toEqual({ field: 'passphrase', message: expect.stringContaining('is required') })
    expect(faultOf(text, 'wrong')).toEqual({ field: 'passphrase', message: 'does not open the private key' })
  })

  test.each([
    ['any text', 'canary'],
    ['nothing', ''],
    ['a key that is cut short', newSshKey().private.slice(0, 150)],
    ['a key whose body is another', '-----BEGIN OPENSSH PRIVATE KEY-----\nY2FuYXJ5\n-----END OPENSSH PRIVATE KEY-----'],
    ['a key in a format that is not known', pem('pkcs8')],
    ['a certificate', '-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----']
  ])('refuses %s as no key, with nothing of it', (_what, text) => {
    const fault = faultOf(text, passphrase)
    expect(fault).toEqual({ field: 'privateKey', message: expect.stringMatching(/^is no private key/) })
    expect(fault!.message).not.toMatch(/canary|Y2Fu/)
  })

  test('refuses a public key as one', () => {
    expect(faultOf(newSshKey().public)).toEqual({
      field: 'privateKey',
      message: expect.stringContaining('a public key')
    })
  })

  test('refuses a key whose passphrase would hold the process up, without trying it', () => {
    // Its rounds are written over: to make such a key takes as long as to open it.
    const [, body] = /KEY-----([\s\S]+)-----END/.exec(encrypted(7))!
    const bytes = Buffer.from(body!, 'base64')
    const at = bytes.indexOf(Buffer.from([0, 0, 0, 7]), bytes.indexOf('bcrypt'))
    bytes.writeUInt32BE(0xffffffff, at)
    const lines = bytes
      .toString('base64')
      .match(/.{1,70}/g)!
      .join('\n')
    const text = `-----BEGIN OPENSSH PRIVATE KEY-----\n${lines}\n-----END OPENSSH PRIVATE KEY-----\n`
    const fault = { field: 'privateKey', message: expect.stringContaining('4294967295 rounds') }
    expect(faultOf(text, passphrase)).toEqual(fault)
  })
})
