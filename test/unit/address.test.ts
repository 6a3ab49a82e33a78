import { describe, expect, test } from '@jest/globals'
import { addressPolicy } from '../../drivers/sftp/address.ts'

const resolving = (addresses: string[], allow: string[] = [], deny: string[] = []) =>
  addressPolicy({ allow, deny, lookup: async () => addresses })('files.example.com')

const denied = { type: 'ADDRESS_DENIED', message: expect.stringContaining('ALLOW_NETWORKS') }

describe('addressPolicy', () => {
  test('sends nobody to ALLOW_NETWORKS where that does not help', async () => {
    await expect(resolving(['10.1.2.3'])).rejects.toThrow('adds its network to ALLOW_NETWORKS')
    await expect(resolving(['169.254.169.254'])).rejects.toThrow('never allowed')
    await expect(resolving(['10.1.2.3'], [], ['10.0.0.0/8'])).rejects.toThrow('DENY_NETWORKS')
  })

  test.each(['8.8.8.8', '2001:4860:4860::8888'])('lets the public address %s pass', async (address) => {
    expect(await resolving([address])).toBe(address)
  })

  test.each([
    ['127.0.0.1', '127.0.0.0/8'],
    ['10.1.2.3', '10.0.0.0/8'],
    ['172.16.0.1', '172.16.0.0/12'],
    ['192.168.1.1', '192.168.1.1'],
    ['100.64.0.1', '100.64.0.0/10'],
    ['192.0.2.1', '192.0.2.0/24'],
    ['::1', '::1'],
    ['fd12::1', 'fd00::/8'],
    ['64:ff9b::a00:1', '64:ff9b::/96'],
    ['2002:7f00:1::', '2002::/16']
  ])('lets the inner address %s pass only within an allowed network', async (address, network) => {
    await expect(resolving([address])).rejects.toMatchObject(denied)
    await expect(resolving([address], ['11.0.0.0/8', 'fe00::/16'])).rejects.toMatchObject(denied)
    expect(await resolving([address], [network])).toBe(address)
  })

  test.each([
    '169.254.169.254',
    '169.254.1.1',
    'fd00:ec2::254',
    '100.100.100.200',
    '168.63.129.16',
    'fe80::1',
    'fe80::1%eth0',
    '0.0.0.0',
    '0.1.2.3',
    '::',
    '224.0.0.1',
    'ff02::1',
    '255.255.255.255',
    'not an address'
  ])('never lets %s pass', async (address) => {
    await expect(resolving([address], ['0.0.0.0/0', '::/0'])).rejects.toMatchObject(denied)
  })

  test('sees through v4 addresses in v6 clothing', async () => {
    await expect(resolving(['::ffff:127.0.0.1'])).rejects.toMatchObject(denied)
    await expect(resolving(['::ffff:a9fe:a9fe'], ['0.0.0.0/0', '::/0'])).rejects.toMatchObject(denied)
    await expect(resolving(['::7f00:1'])).rejects.toMatchObject(denied)
    expect(await resolving(['::ffff:8.8.8.8'])).toBe('8.8.8.8')
    expect(await resolving(['::ffff:10.0.0.1'], ['10.0.0.0/8'])).toBe('10.0.0.1')
  })

  test('takes the first address that passes', async () => {
    expect(await resolving(['127.0.0.1', '::1', '9.9.9.9', '8.8.8.8'])).toBe('9.9.9.9')
  })

  test('refuses what is denied even when it is public or allowed', async () => {
    await expect(resolving(['8.8.8.8'], [], ['8.0.0.0/8'])).rejects.toMatchObject(denied)
    await expect(resolving(['10.0.0.1'], ['10.0.0.0/8'], ['10.0.0.1'])).rejects.toMatchObject(denied)
  })

  test.each(['127.1', '0x7f.1', '2130706433', '017700000001', 'localhost', '[::1]'])(
    'checks %s as the address that it becomes',
    async (host) => {
      await expect(addressPolicy({ allow: [], deny: [] })(host)).rejects.toMatchObject(denied)
    }
  )

  test('finds odd spellings of an allowed address', async () => {
    expect(await addressPolicy({ allow: ['127.0.0.0/8'], deny: [] })('127.1')).toBe('127.0.0.1')
  })

  test('reports an unknown host as unreachable', async () => {
    const resolve = addressPolicy({ allow: [], deny: [] })
    await expect(resolve('no-such-host.invalid')).rejects.toMatchObject({ type: 'SFTP_UNREACHABLE' })
    await expect(resolving([])).rejects.toMatchObject({ type: 'SFTP_UNREACHABLE' })
  })

  test('refuses a network that is none', () => {
    expect(() => addressPolicy({ allow: ['10.0.0.0/33'], deny: [] })).toThrow(/not a network/)
  })
})
