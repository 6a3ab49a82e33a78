import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { IngestError } from '../../domain/errors.ts'
import { checkServer, newServer, parseNewServer, parseServerUpdate } from '../../domain/server-input.ts'

const least = { name: 'acme', host: 'sftp.acme.com', username: 'ada', password: 'pw' }

function errorsOf(parse: () => unknown): { field: string; message: string }[] {
  try {
    parse()
  } catch (error) {
    const { type, data, message } = error as IngestError
    expect(type).toBe('INVALID')
    const errors = data.errors as { field: string; message: string }[]
    for (const one of errors) expect(message).toContain(one.field)
    return errors
  }
  throw new Error('the input was accepted')
}
const refused = (change: object) => errorsOf(() => parseNewServer({ ...least, ...change }))

const bad: [string, unknown, string?][] = [
  ['name', ''],
  ['name', '-acme'],
  ['name', 'a/b'],
  ['name', 'a\n'],
  ['name', 'a'.repeat(64)],
  ['host', ''],
  ['host', 'a b'],
  ['host', 'user@host'],
  ['port', 0],
  ['port', 65_536],
  ['port', 22.5],
  ['port', '22'],
  ['username', ''],
  ['username', 'a\u0000b'],
  ['password', ''],
  ['password', 5],
  ['hostKey', 'SHA256:short'],
  ['hostKey', 'MD5:00'],
  ['roots', []],
  ['roots', ['relative'], 'roots.0'],
  ['roots', ['/a\0'], 'roots.0'],
  ['roots', ['/a', '/a']],
  ['roots', ['/a/b', '/a']],
  ['roots', ['/', '/a']],
  ['roots', '/a'],
  ['recursive', 'yes'],
  ['maxDepth', -1],
  ['maxDepth', 65],
  ['symlinks', 'both'],
  ['include', ['a', ''], 'include.1'],
  ['include', ['[a']],
  ['include', ['*'.repeat(17)], 'include.0'],
  ['exclude', '*.csv'],
  ['exclude', ['{a,b']],
  ['tempPatterns', ['!*.csv']],
  ['interval', 0],
  ['interval', Number.NaN],
  ['interval', '60'],
  ['cron', '* * *'],
  ['cron', '61 * * * *'],
  ['cron', '0 0 30 2 *'],
  ['cron', ''],
  ['cron', 5],
  ['timezone', 5],
  ['minAge', -1],
  ['minAge', '60'],
  ['marker', '.done'],
  ['marker', {}],
  ['marker', { suffix: '' }, 'marker.suffix'],
  ['marker', { suffix: '/x' }, 'marker.suffix'],
  ['marker', { suffix: 'done' }, 'marker.suffix'],
  ['marker', { extension: 'done' }, 'marker.extension'],
  ['marker', { extension: '' }, 'marker.extension'],
  ['marker', { file: '' }, 'marker.file'],
  ['marker', { file: '..' }, 'marker.file'],
  ['marker', ''],
  ['marker', { suffix: '.a', file: 'b' }],
  ['marker', { prefix: 'x' }, 'marker.prefix'],
  ['order', 'newest'],
  ['priority', 101],
  ['priority', 0.5],
  ['afterUpload', 'remove'],
  ['afterUpload', { move: '' }, 'afterUpload.move'],
  ['afterUpload', { move: '/' }, 'afterUpload.move'],
  ['afterUpload', { move: '../x' }, 'afterUpload.move'],
  ['afterUpload', { move: 'x', copy: true }, 'afterUpload.copy'],
  ['movedInto', []],
  ['settle', { checks: 0, seconds: 1 }, 'settle.checks'],
  ['settle', { checks: 1, seconds: -1 }, 'settle.seconds'],
  ['settle', { checks: 1 }, 'settle.seconds'],
  ['settle', { checks: 1, seconds: 1, minutes: 1 }, 'settle.minutes'],
  ['settle', { checks: 1, seconds: 5 }, 'settle.checks'],
  ['emptyFiles', true],
  ['maxSize', -1],
  ['maxSize', 0],
  ['onChange', 'delete'],
  ['checksum', 'md5'],
  ['maxConnections', 0],
  ['maxConnections', 65],
  ['bandwidth', 0],
  ['bandwidth', 65_535],
  ['bandwidth', 20_000.5],
  ['bandwidth', '1M'],
  ['algorithms', []],
  ['algorithms', { kex: [] }, 'algorithms.kex'],
  ['algorithms', { kex: ['diffie-hellman-group0'] }, 'algorithms.kex.0'],
  ['algorithms', { hmac: ['hmac-sha1', 'aes128-cbc'] }, 'algorithms.hmac.1'],
  ['algorithms', { cipher: ['aes128-cbc', 'aes128-cbc'] }, 'algorithms.cipher'],
  ['algorithms', { compress: ['zlib'] }, 'algorithms.compress'],
  ['keyTemplate', ''],
  ['keyTemplate', '{server}/{name}'],
  ['keyTemplate', '../{path}'],
  ['keyTemplate', null],
  ['enabled', 'true'],
  ['state', 'active'],
  ['secrets', {}],
  ['_id', 'x']
]

describe('parseNewServer', () => {
  test('fills in what the contract says where nothing is given', () => {
    const { input, secrets } = parseNewServer(least)
    expect(secrets).toEqual({ password: 'pw' })
    expect(input).toMatchObject({
      port: 22,
      hostKey: null,
      roots: ['/'],
      recursive: true,
      symlinks: 'skip',
      include: [],
      exclude: [],
      interval: 60,
      settle: { checks: 2, seconds: 30 },
      emptyFiles: 'take',
      maxSize: null,
      onChange: 'ignore',
      checksum: 'crc32',
      maxConnections: 2,
      bandwidth: null,
      algorithms: null,
      keyTemplate: '{server}/{path}',
      enabled: true
    })
  })

  test('takes old algorithms by name, and null for what is the default', () => {
    const old = { kex: ['diffie-hellman-group14-sha1'], serverHostKey: ['ssh-rsa', 'rsa-sha2-512'] }
    expect(parseNewServer({ ...least, algorithms: old, bandwidth: 65_536 }).input).toMatchObject({ algorithms: old })
    const unset = { algorithms: null, bandwidth: null }
    expect(parseServerUpdate(unset).input).toEqual(unset)
  })

  test('takes a cron expression in place of an interval, not both, and a time zone only with it', () => {
    const { input } = parseNewServer({ ...least, cron: '0 2 * * *', timezone: 'Europe/Berlin' })
    expect(input).toMatchObject({ cron: '0 2 * * *', timezone: 'Europe/Berlin', interval: null })
    expect(parseNewServer({ ...least, cron: '0 2 * * *' }).input).toMatchObject({ timezone: 'UTC' })
    expect(refused({ cron: '0 2 * * *', interval: 60 })).toMatchObject([{ field: 'cron' }])
    expect(refused({ cron: '0 2 * * *', timezone: 'Mars/Base' })).toMatchObject([{ field: 'timezone' }])
    expect(refused({ timezone: 'UTC' })).toMatchObject([{ field: 'timezone', message: 'goes with cron' }])
  })

  test('files are not moved into a folder that holds a root', () => {
    expect(refused({ roots: ['/in/a'], afterUpload: { move: '/in' } })).toMatchObject([{ field: 'afterUpload' }])
    const { input } = parseNewServer({ ...least, roots: ['/in'], afterUpload: { move: '/in//done/' } })
    expect(input.afterUpload).toEqual({ move: '/in/done' })
  })

  test('splits every secret off', () => {
    const key = { ...least, password: undefined, privateKey: 'canary-key', passphrase: 'canary-phrase' }
    const { input, secrets } = parseNewServer(key)
    expect(secrets).toEqual({ privateKey: 'canary-key', passphrase: 'canary-phrase' })
    expect(JSON.stringify(input)).not.toContain('canary')
  })

  test.each(bad)('names the field %s when it is %j', (field, value, named = field) => {
    expect(refused({ [field]: value }).map((error) => error.field)).toContain(named)
    if (field in least) return
    expect(errorsOf(() => parseServerUpdate({ [field]: value })).map((error) => error.field)).toContain(named)
  })

  test('says "is required" of what is missing, and only of that', () => {
    expect(
      errorsOf(() => parseNewServer({}))
        .filter(({ message }) => message === 'is required')
        .map(({ field }) => field)
    ).toEqual(['name', 'host', 'username'])
    expect(refused({ port: '22' })).toEqual([{ field: 'port', message: expect.not.stringContaining('required') }])
  })

  test('names every bad field at once', () => {
    const fields = refused({ port: 0, interval: 0, bogus: 1, other: 2 }).map(({ field }) => field)
    expect(fields.sort()).toEqual(['bogus', 'interval', 'other', 'port'])
  })

  test('one way to log in is asked for, and a passphrase only with its key', () => {
    const { password: _, ...nothing } = least
    expect(errorsOf(() => parseNewServer(nothing))).toMatchObject([{ field: 'password' }])
    expect(refused({ privateKey: 'k' })).toMatchObject([{ field: 'password' }])
    expect(refused({ passphrase: 'p' })).toMatchObject([{ field: 'passphrase' }])
  })

  test.each([null, undefined, 5, 'text', [], [least]])('a body that is %j is refused', (body) => {
    expect(errorsOf(() => parseNewServer(body)).length).toBeGreaterThan(0)
  })

  test('a field named like a part of every object is refused', () => {
    for (const field of ['__proto__', 'constructor', 'toString']) {
      const body = JSON.parse(JSON.stringify(least).replace('{', `{"${field}":{"enabled":false},`))
      expect(errorsOf(() => parseNewServer(body)).map((error) => error.field)).toEqual([field])
    }
  })

  test('no message repeats a secret', () => {
    const canary = `canary${'x'.repeat(17_000)}`
    for (const change of [{ password: canary }, { password: undefined, privateKey: canary }, { passphrase: canary }]) {
      expect(JSON.stringify(refused(change))).not.toContain('canary')
    }
  })

  test('any JSON is either taken or refused with fields', () => {
    const value = fc.jsonValue()
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...Object.keys(parseNewServer(least).input), 'x'), value), (change) => {
        try {
          parseNewServer({ ...least, ...change })
        } catch (error) {
          expect(error).toMatchObject({ type: 'INVALID', data: { errors: expect.any(Array) } })
        }
      })
    )
  })
})

describe('parseServerUpdate', () => {
  test('takes some fields and adds none', () => {
    expect(parseServerUpdate({ interval: 5 })).toEqual({ input: { interval: 5 }, secrets: {} })
    expect(parseServerUpdate({})).toEqual({ input: {}, secrets: {} })
    expect(parseServerUpdate({ password: 'canary' })).toEqual({ input: {}, secrets: { password: 'canary' } })
  })

  test('a time zone is known by itself, since its expression is that of the server', () => {
    expect(parseServerUpdate({ timezone: 'Europe/Berlin' }).input).toEqual({ timezone: 'Europe/Berlin' })
    expect(errorsOf(() => parseServerUpdate({ timezone: 'Mars/Base' }))).toMatchObject([{ field: 'timezone' }])
    expect(errorsOf(() => parseServerUpdate({ cron: '* * * * *', interval: 5 }))).toMatchObject([{ field: 'cron' }])
  })

  test('two ways to log in are refused', () => {
    expect(errorsOf(() => parseServerUpdate({ password: 'a', privateKey: 'b' }))).toMatchObject([{ field: 'password' }])
  })
})

describe('checkServer', () => {
  test('names what does not go together on a changed server as a whole', () => {
    const whole = { interval: 60, cron: null, timezone: null, roots: ['/'], afterUpload: 'keep' as const }
    expect(() => checkServer(whole)).not.toThrow()
    expect(errorsOf(() => checkServer({ ...whole, timezone: 'UTC' }))).toMatchObject([{ field: 'timezone' }])
    expect(errorsOf(() => checkServer({ ...whole, cron: '* * * * *', timezone: 'No/Where' }))).toMatchObject([
      { field: 'timezone' }
    ])
    const around = { ...whole, roots: ['/a/b'], afterUpload: { move: '/a' } }
    expect(errorsOf(() => checkServer(around))).toMatchObject([{ field: 'afterUpload' }])
  })
})

describe('newServer', () => {
  test('is due at once, or paused where it is not enabled', () => {
    const { input } = parseNewServer(least)
    expect(newServer('s1', input, {}, 5)).toMatchObject({
      _id: 's1',
      state: 'active',
      nextScanAt: 5,
      revision: 0,
      slots: []
    })
    expect(newServer('s1', { ...input, enabled: false }, {}, 5).state).toBe('paused')
  })
})
