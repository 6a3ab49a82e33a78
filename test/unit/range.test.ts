import { describe, expect, test } from '@jest/globals'
import { bytesAnswer } from '../../rest/range.ts'

const etag = '"abc"'
const answer = (range: string, more: object = {}, size = 10) => bytesAnswer({ range, ...more }, size, etag)
const whole = { status: 200, range: undefined }

describe('a range', () => {
  test.each([
    ['the first bytes', 'bytes=0-3', { start: 0, end: 3 }],
    ['from a byte on', 'bytes=4-', { start: 4, end: 9 }],
    ['the last bytes', 'bytes=-3', { start: 7, end: 9 }],
    ['more than there is', 'bytes=8-100', { start: 8, end: 9 }],
    ['ranges that touch', 'bytes=0-3,4-6', { start: 0, end: 6 }]
  ])('%s', (_what, range, expected) => {
    expect(answer(range)).toEqual({ status: 206, range: expected })
  })

  test('that begins behind the end cannot be satisfied', () => {
    expect(answer('bytes=10-')).toEqual({ status: 416 })
    expect(answer('bytes=10-20,30-')).toEqual({ status: 416 })
  })

  test('that is none, of another unit, or several, is answered with the whole', () => {
    for (const range of ['', 'bytes', 'lines=1-2', 'bytes=0-1,5-6']) expect(answer(range)).toEqual(whole)
    expect(bytesAnswer({}, 10, etag)).toEqual(whole)
  })

  test('of an empty object is the whole of it', () => {
    expect(answer('bytes=0-', {}, 0)).toEqual(whole)
  })

  test('of another version than the one that is there is answered with the whole', () => {
    expect(answer('bytes=0-1', { ifRange: '"old"' })).toEqual(whole)
    expect(answer('bytes=0-1', { ifRange: etag })).toMatchObject({ status: 206 })
  })
})

test('what the caller has already is not sent again', () => {
  for (const ifNoneMatch of [etag, `W/${etag}`, `"x", ${etag}`, '*'])
    expect(bytesAnswer({ ifNoneMatch }, 10, etag)).toEqual({ status: 304 })
  expect(bytesAnswer({ ifNoneMatch: '"x"' }, 10, etag)).toEqual(whole)
})
