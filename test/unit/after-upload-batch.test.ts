import { afterEach, describe, expect, test } from '@jest/globals'
import { ServiceBroker } from 'moleculer'
import type { AfterUploadStep } from '../../domain/after-upload.ts'
import { IngestError } from '../../domain/errors.ts'
import type { AfterUploadPolicy } from '../../domain/server.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { afterUploadMixin } from '../../mixins/after-upload.mixin.ts'
import { fakeSftp, type Node } from '../support/fake-sftp.ts'

const recorded: Node = { kind: 'file', size: 10, mtime: 5 }
const step = (name: string): AfterUploadStep => ({ id: name, epoch: 1, path: `/in/${name}`, size: 10, mtime: 5000 })

describe('a batch of steps after the upload', () => {
  let broker: ServiceBroker | null = null
  afterEach(async () => {
    await broker?.stop()
    broker = null
  })

  /** Runs the steps of these files on one server; answers how each ended, and how often the newest scan was asked for. */
  async function batch(
    afterUpload: AfterUploadPolicy,
    names: string[],
    change: (sftp: Sftp) => Partial<Sftp> = () => ({})
  ) {
    const { sftp } = fakeSftp(Object.fromEntries(names.map((name) => [`/in/${name}`, recorded])))
    const policy = { roots: ['/in'], recursive: true, maxDepth: 9, symlinks: 'skip', movedInto: [], afterUpload }
    const told = { kinds: {} as Record<string, string>, scanEpochs: {} as Record<string, number>, asked: 0 }
    broker = new ServiceBroker({ logger: false, nodeID: 'one' })
    broker.createService({
      name: 'servers',
      actions: {
        takeSlot: () => ({ slotId: 'slot', order: { policy } }),
        scanEpoch: () => {
          told.asked++
          return 7
        }
      }
    })
    broker.createService({
      name: 'files',
      actions: {
        claimAfterUploads: () => [],
        endAfterUploads({ params: { ends } }) {
          for (const { id, outcome, scanEpoch } of ends) {
            told.kinds[id] = outcome.kind
            told.scanEpochs[id] = scanEpoch
          }
        }
      }
    })
    const service: unknown = broker.createService({
      name: 'scanner',
      mixins: [afterUploadMixin as never],
      methods: {
        connected: (_order, _signal, use: (sftp: Sftp) => Promise<unknown>) => use({ ...sftp, ...change(sftp) }),
        releaseSlot: () => undefined
      },
      created(this: { stop?: AbortController; holder?: string }) {
        this.stop = new AbortController()
        this.holder = 'one/scanner'
      }
    })
    await broker.start()
    const { clearBatch } = service as { clearBatch(batch: object, until: number): Promise<void> }
    await clearBatch({ serverId: 's1', steps: names.map(step) }, Date.now() + 25_000)
    return told
  }

  test('asks for the newest scan once a name is free, so that what it has listed is not believed', async () => {
    expect(await batch('delete', ['a', 'b'])).toEqual({
      kinds: { a: 'deleted', b: 'deleted' },
      scanEpochs: { a: 7, b: 7 },
      asked: 2
    })
  })

  test.each<[string, AfterUploadPolicy, string, (sftp: Sftp) => Partial<Sftp>]>([
    ['is kept', 'keep', 'kept', () => ({})],
    [
      'is to be tried again',
      'delete',
      'retry',
      () => ({ rename: () => Promise.reject(new IngestError('SFTP_PERMISSION_DENIED', 'no')) })
    ]
  ])('asks for no scan where a file %s', async (_, afterUpload, kind, change) => {
    expect(await batch(afterUpload, ['a'], change)).toMatchObject({ kinds: { a: kind }, asked: 0 })
  })
})
