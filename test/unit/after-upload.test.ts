import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import {
  AFTER_UPLOAD_BACKOFF,
  claimStep,
  endStep,
  makeDue,
  releasesName,
  waitingForUpload
} from '../../domain/after-upload.ts'
import { IngestError } from '../../domain/errors.ts'
import type { AfterUploadPolicy, ServerPolicy } from '../../domain/server.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { AfterUpload, clearSources, type StepHold } from '../../workers/after-upload.ts'
import { fakeSftp, type Node } from '../support/fake-sftp.ts'

const start = 1_700_000_000_000
const step = { id: 'abcdefghijkl', epoch: 1, path: '/in/sub/a.csv', size: 10, mtime: 5000 }
const recorded: Node = { kind: 'file', size: 10, mtime: 5 }
const hold: StepHold = { now: () => start, check() {} }
const policyOf = (afterUpload: AfterUploadPolicy, symlinks: 'skip' | 'follow' = 'skip') =>
  ({ roots: ['/in'], recursive: true, maxDepth: 9, symlinks, movedInto: [], afterUpload }) as unknown as ServerPolicy

function cleaner(tree: Record<string, Node>, afterUpload: AfterUploadPolicy, symlinks: 'skip' | 'follow' = 'skip') {
  const fake = fakeSftp(tree)
  const run = () => new AfterUpload(fake.sftp, policyOf(afterUpload, symlinks), ['/in']).run(step, hold)
  const files = () => [...fake.nodes].filter(([, { kind }]) => kind !== 'folder').map(([path]) => path)
  return { ...fake, run, files: () => files().sort() }
}

describe('after the upload', () => {
  test('the source is deleted, and nothing else', async () => {
    const { run, files } = cleaner({ [step.path]: recorded, '/in/sub/b.csv': recorded }, 'delete')
    expect(await run()).toEqual({ kind: 'deleted' })
    expect(files()).toEqual(['/in/sub/b.csv'])
  })

  test.each([
    ['below its root, with the folders between', 'done', '/in/done/sub/a.csv'],
    ['to an absolute folder', '/archive/2026', '/archive/2026/sub/a.csv']
  ])('the source is moved %s, and the folder is made', async (_, move, to) => {
    const { run, files } = cleaner({ [step.path]: recorded }, { move })
    expect(await run()).toEqual({ kind: 'moved', to })
    expect(files()).toEqual([to])
  })

  test('a name that is taken where it is moved to is not overwritten', async () => {
    const taken = { '/in/done/sub/a.csv': recorded, '/in/done/sub/a~abcdefgh.csv': recorded }
    const { run, files } = cleaner({ ...taken, [step.path]: recorded }, { move: 'done' })
    expect(await run()).toEqual({ kind: 'moved', to: '/in/done/sub/a~abcdefgh-2.csv' })
    expect(files()).toEqual(['/in/done/sub/a.csv', '/in/done/sub/a~abcdefgh-2.csv', '/in/done/sub/a~abcdefgh.csv'])
  })

  test.each<[string, Node]>([
    ['of another size', { kind: 'file', size: 11, mtime: 5 }],
    ['of another time', { kind: 'file', size: 10, mtime: 6 }],
    ['that is a pipe', { kind: 'other' }],
    ['that is a link', { kind: 'link', to: '/in/x' }]
  ])('what has the name by now, %s, is not touched', async (_, node) => {
    const { run, nodes } = cleaner({ [step.path]: node, '/in/x': recorded }, 'delete')
    expect(await run()).toEqual({ kind: 'left' })
    expect(nodes.get(step.path)).toBe(node)
  })

  test('a link that was followed is left alone, and says so', async () => {
    const { run, files } = cleaner(
      { [step.path]: { kind: 'link', to: '/in/x' }, '/in/x': recorded },
      'delete',
      'follow'
    )
    expect(await run()).toMatchObject({ kind: 'retry', error: { message: expect.stringContaining('link') } })
    expect(files()).toEqual(['/in/sub/a.csv', '/in/x'])
  })

  test('a source that is gone is done with', async () => {
    expect(await cleaner({ '/in/sub/b': recorded }, 'delete').run()).toEqual({ kind: 'gone' })
  })

  test('what a worker that died had moved already is found where it is', async () => {
    const { run } = cleaner({ '/in/done/sub/a.csv': recorded }, { move: 'done' })
    expect(await run()).toEqual({ kind: 'moved', to: '/in/done/sub/a.csv' })
  })

  test('where the last step is refused the file has its own name again, and the error is told', async () => {
    const { run, sftp, files } = cleaner({ [step.path]: recorded }, 'delete')
    Object.assign(sftp, {
      unlink: () => Promise.reject(new IngestError('SFTP_PERMISSION_DENIED', 'the user may not'))
    })
    expect(await run()).toMatchObject({ kind: 'retry', error: { type: 'SFTP_PERMISSION_DENIED', at: start } })
    expect(files()).toEqual([step.path])
  })

  test('a folder to move into that is a file is an error', async () => {
    const { run, files } = cleaner({ [step.path]: recorded, '/in/done': recorded }, { move: 'done' })
    expect(await run()).toMatchObject({ kind: 'retry', error: { message: expect.stringContaining('no folder') } })
    expect(files()).toEqual(['/in/done', step.path])
  })

  test('a policy that keeps files by now touches nothing', async () => {
    const { run, files } = cleaner({ [step.path]: recorded }, 'keep')
    expect(await run()).toEqual({ kind: 'kept' })
    expect(files()).toEqual([step.path])
  })

  const aside = '/in/sub/.longshore-abcdefghijkl'
  test.each<[string, Record<string, Node>, object, string[]]>([
    ['under its name', { [aside]: recorded }, { kind: 'kept' }, [step.path]],
    [
      'beside what has its name by now',
      { [aside]: recorded, [step.path]: { kind: 'file', size: 11, mtime: 9 } },
      { kind: 'left' },
      [step.path, '/in/sub/a~abcdefgh.csv']
    ],
    [
      'under its name, and is the next version where it is not the recorded one,',
      { [aside]: { kind: 'file', size: 11, mtime: 9 } },
      { kind: 'left' },
      [step.path]
    ]
  ])('what a worker that died had set aside is put back %s when the policy keeps files by now', async (...given) => {
    const [, tree, outcome, left] = given
    const { run, files } = cleaner(tree, 'keep')
    expect(await run()).toEqual(outcome)
    expect(files()).toEqual(left)
  })

  test('what a worker that died had deleted or moved leaves its name free when the policy keeps files by now', async () => {
    for (const left of ['/in/sub/b', '/in/done/sub/a.csv']) {
      const { run, files } = cleaner({ [left]: recorded }, 'keep')
      expect(await run()).toEqual({ kind: 'gone' })
      expect(files()).toEqual([left])
    }
  })

  test('a link that was followed is kept when the policy keeps files by now', async () => {
    const tree: Record<string, Node> = { [step.path]: { kind: 'link', to: '/in/x' }, '/in/x': recorded }
    const { run, files } = cleaner(tree, 'keep', 'follow')
    expect(await run()).toEqual({ kind: 'kept' })
    expect(files()).toEqual([step.path, '/in/x'])
  })

  test('what came under the name after a worker had died is the next version when the policy keeps files by now', async () => {
    const { run, files } = cleaner({ [step.path]: { kind: 'file', size: 11, mtime: 9 } }, 'keep')
    expect(await run()).toEqual({ kind: 'left' })
    expect(files()).toEqual([step.path])
  })

  test('nothing is changed by a worker that may have lost its hold', async () => {
    const fake = fakeSftp({ [step.path]: recorded })
    const lost = {
      now: () => start,
      check: () => {
        throw new IngestError('LEASE_LOST', 'too late')
      }
    }
    const ended: string[] = []
    await clearSources(fake.sftp, policyOf('delete'), ['/in'], [step, { ...step, id: 'b' }], lost, async ({ id }) => {
      ended.push(id)
    })
    expect(ended).toEqual([])
    expect(fake.nodes.has(step.path)).toBe(true)
  })

  test('a lost connection ends the batch', async () => {
    const fake = fakeSftp({ [step.path]: recorded })
    const error = new IngestError('SFTP_CONNECTION_LOST', 'lost')
    Object.assign(fake.sftp, { lstat: () => Promise.reject(error) })
    const batch = clearSources(fake.sftp, policyOf('delete'), ['/in'], [step], hold, async () => {})
    await expect(batch).rejects.toBe(error)
  })
})

describe('whatever crashes and whatever the partner does', () => {
  const partner = fc.constantFrom('nothing', 'nothing', 'nothing', 'deliver', 'remove', 'occupy')
  const attempts = fc.array(
    fc.record({
      crashAt: fc.integer({ min: 1, max: 12 }),
      afterEffect: fc.boolean(),
      acts: fc.array(partner, { minLength: 12, maxLength: 12 })
    }),
    { maxLength: 4 }
  )

  test('no file but the recorded one is lost or hidden, none is overwritten, and none of ours is left behind', async () => {
    const policies = fc.constantFrom<AfterUploadPolicy>('delete', { move: 'done' })
    const laterKeeps = fc.boolean()
    await fc.assert(
      fc.asyncProperty(policies, attempts, laterKeeps, async (afterUpload, all, keepsLater) => {
        const fake = fakeSftp({ [step.path]: recorded })
        /** Contents that must never go: by size, which no two have. */
        const kept = new Set<number>()
        let size = 100
        const act = (what: string) => {
          if (what === 'deliver' && !fake.nodes.has(step.path)) put(step.path)
          else if (what === 'deliver') replace()
          if (what === 'remove' && fake.nodes.has(step.path)) remove()
          if (what === 'occupy' && !fake.nodes.has('/in/done/sub/a.csv')) {
            for (const folder of ['/in/done', '/in/done/sub']) fake.nodes.set(folder, { kind: 'folder' })
            put('/in/done/sub/a.csv')
          }
        }
        const put = (path: string) => {
          fake.nodes.set(path, { kind: 'file', size: ++size, mtime: 5 })
          kept.add(size)
        }
        const remove = () => {
          kept.delete((fake.nodes.get(step.path) as { size: number }).size)
          fake.nodes.delete(step.path)
        }
        const replace = () => {
          remove()
          put(step.path)
        }
        const attempt = async (plan: (typeof all)[number] | null) => {
          const crashed = new AbortController()
          let operations = 0
          const lost = () => {
            const error = new IngestError('SFTP_CONNECTION_LOST', 'crashed')
            crashed.abort(error)
            return error
          }
          const wrapped = Object.fromEntries(
            ['lstat', 'stat', 'rename', 'unlink', 'mkdir'].map((name) => [
              name,
              async (...args: string[]) => {
                if (crashed.signal.aborted) throw crashed.signal.reason
                operations++
                if (plan) act(plan.acts[operations % 12]!)
                if (plan?.crashAt === operations && !plan.afterEffect) throw lost()
                const operation = (fake.sftp as unknown as Record<string, (...all: string[]) => Promise<unknown>>)[
                  name
                ]!
                const answer = await operation(...args)
                if (plan?.crashAt === operations) throw lost()
                return answer
              }
            ])
          )
          const sftp = { ...wrapped, closed: crashed.signal } as unknown as Sftp
          const policy = plan === null && keepsLater ? 'keep' : afterUpload
          return new AfterUpload(sftp, policyOf(policy), ['/in']).run(step, hold).catch(() => null)
        }
        let outcome = null
        for (const plan of all) {
          outcome = await attempt(plan)
          if (outcome && outcome.kind !== 'retry') break
        }
        for (let n = 0; !outcome || outcome.kind === 'retry'; n++) {
          expect(n).toBeLessThan(3)
          outcome = await attempt(null)
        }
        const files = [...fake.nodes].flatMap(([path, node]) =>
          node.kind === 'file' ? [{ path, size: node.size }] : []
        )
        expect(files.filter(({ path }) => path.includes('.longshore-'))).toEqual([])
        for (const one of kept) expect(files.map((file) => file.size)).toContain(one)
        // What the partner delivered lies where scans come, unless the partner put it into the folder of moved files.
        const delivered = files.filter((file) => kept.has(file.size!) && file.path.startsWith('/in/done/'))
        expect(delivered.every(({ path }) => path === '/in/done/sub/a.csv')).toBe(true)
        if (outcome.kind === 'moved') expect(fake.nodes.get(outcome.to)).toMatchObject({ size: 10 })
        if (outcome.kind === 'kept') expect(fake.nodes.get(step.path)).toMatchObject({ size: 10 })
        if (outcome.kind === 'deleted') expect(files.map((file) => file.size)).not.toContain(10)
      }),
      { numRuns: 2000 }
    )
  })
})

describe('the state of the step', () => {
  const error = { type: 'SFTP_PERMISSION_DENIED', message: 'no', at: start }
  const due = makeDue(waitingForUpload, start)

  test('it is taken by one worker, and again only after its lease', () => {
    const taken = claimStep(due, start)!
    expect(taken).toMatchObject({ epoch: 1, attempts: 1 })
    expect(claimStep(taken, start + 34_000)).toBeNull()
    expect(claimStep(taken, start + 35_000)).toMatchObject({ epoch: 2 })
    for (const state of [waitingForUpload, null, undefined]) expect(claimStep(state, start)).toBeNull()
  })

  test('errors are tried again with growing pauses until the last, and then it stands failed with its error', () => {
    let state = due
    let now = start
    for (let n = 1; n < AFTER_UPLOAD_BACKOFF.maxAttempts; n++) {
      const ended = endStep(claimStep(state, now)!, { kind: 'retry', error }, now, 1)
      expect(ended).toMatchObject({ state: { status: 'due', attempts: n, error } })
      now = ended.state!.dueAt!
      state = ended.state!
    }
    const last = endStep(claimStep(state, now)!, { kind: 'retry', error }, now, 1)
    expect(last).toMatchObject({ state: { status: 'failed', error }, why: 'no' })
    expect(last.state).not.toHaveProperty('dueAt')
    expect(makeDue(last.state!, now)).toMatchObject({ status: 'due', attempts: 0 })
  })

  test('what is not the fault of the file costs no attempt', () => {
    const taken = claimStep(due, start)!
    expect(endStep(taken, { kind: 'deferred', error: null, waitMs: 5 }, start, 0).state).toMatchObject({
      status: 'due',
      attempts: 0,
      dueAt: start + 5
    })
  })

  test('only what is gone, moved or replaced releases the name', () => {
    const released = (kind: string) => releasesName({ kind } as never)
    expect(['deleted', 'moved', 'gone', 'left'].map(released)).toEqual([true, true, true, true])
    expect(['kept', 'retry', 'deferred'].map(released)).toEqual([false, false, false])
  })
})
