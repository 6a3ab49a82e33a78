import { describe, expect, test } from '@jest/globals'
import { blameOf, errorType, IngestError } from '../../domain/errors.ts'

describe('the error table', () => {
  test('an error that crossed the network as a plain object keeps its type', () => {
    expect(errorType({ type: 'SFTP_AUTH_FAILED', message: 'x' })).toBe('SFTP_AUTH_FAILED')
  })
  test('a foreign error is INTERNAL', () => {
    expect(errorType(new Error('x'))).toBe('INTERNAL')
    expect(errorType({ type: 'toString' })).toBe('INTERNAL')
  })
  test('wrong credentials stop the server', () => {
    expect(blameOf(new IngestError('SFTP_AUTH_FAILED', 'x'))).toBe('stop')
  })
})
