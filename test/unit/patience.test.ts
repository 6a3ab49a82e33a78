import { describe, expect, test } from '@jest/globals'
import { Errors } from 'moleculer'
import { IngestError } from '../../domain/errors.ts'
import { isPassing } from '../../domain/patience.ts'

describe('isPassing', () => {
  test.each([
    new Errors.ServiceNotFoundError({ action: 'files.claim' }),
    new Errors.ServiceNotAvailableError({ action: 'files.claim' }),
    new Errors.RequestTimeoutError({ action: 'files.claim', nodeID: 'n' }),
    new Errors.RequestRejectedError({ action: 'files.claim', nodeID: 'n' }),
    new IngestError('DATABASE_UNAVAILABLE', 'away'),
    { name: 'ServiceNotFoundError', message: 'came over the network' }
  ])('%s passes', (error) => {
    expect(isPassing(error)).toBe(true)
  })

  test.each([new IngestError('CONFLICT', 'no'), new Error('a bug'), { type: 'LEASE_LOST' }, null, undefined, 'text'])(
    '%s does not',
    (error) => {
      expect(isPassing(error)).toBe(false)
    }
  )
})
