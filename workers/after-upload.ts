/**
 * Deletes or moves the source of an announced version, and only that: what has its name is first renamed aside to a name
 * of ours, by the plain rename of SFTP that overwrites nothing, and looked at there, where no partner writes.
 *
 *   look -> rename aside -> look -> delete, or move        the recorded version
 *                                -> rename back            another one, or the last step failed
 *
 * A worker may die between any two: the file that it renamed aside is found there by the next one, which goes on with it,
 * or renames it back where the policy keeps files by now.
 */
import type { AfterUploadOutcome, AfterUploadStep } from '../domain/after-upload.ts'
import { errorType, IngestError, recordedError } from '../domain/errors.ts'
import { OWN_PREFIX } from '../domain/filter.ts'
import { placeOf } from '../domain/readiness.ts'
import type { ServerPolicy } from '../domain/server.ts'
import { failpoint } from '../drivers/failpoint.ts'
import type { Attributes, Sftp } from '../drivers/sftp/sftp.ts'

const MAX_NAMES = 20
const LOST = ['SFTP_TIMEOUT', 'SFTP_CONNECTION_LOST', 'LEASE_LOST', 'CANCELLED']

export interface StepHold {
  /** Throws LEASE_LOST when the step may belong to another worker by now; asked before anything is changed. */
  check(): void
  now(): number
}

const AT_ONCE = 8

/**
 * The steps of one server over one connection, some side by side. `ended` is told of each that came to an end; those that
 * `hold` has no time for any more are left out. Rejects when the connection is lost.
 */
export async function clearSources(
  sftp: Sftp,
  policy: ServerPolicy,
  roots: string[],
  steps: AfterUploadStep[],
  hold: StepHold,
  ended: (step: AfterUploadStep, outcome: AfterUploadOutcome) => Promise<void>
): Promise<void> {
  const cleaner = new AfterUpload(sftp, policy, roots)
  let next = 0
  const work = async () => {
    for (let step = steps[next++]; step; step = steps[next++]) {
      const outcome = await cleaner.run(step, hold).catch((error) => {
        if (errorType(error) === 'LEASE_LOST') return null
        throw error
      })
      if (outcome === null) return
      await ended(step, outcome)
    }
  }
  const works = await Promise.allSettled(Array.from({ length: AT_ONCE }, work))
  for (const one of works) if (one.status === 'rejected') throw one.reason
}

/** One server's steps over one connection. */
export class AfterUpload {
  readonly #sftp: Sftp
  readonly #policy: ServerPolicy
  readonly #roots: string[]
  readonly #folders = new Set<string>()

  /** `roots` are the resolved ones. */
  constructor(sftp: Sftp, policy: ServerPolicy, roots: string[]) {
    this.#sftp = sftp
    this.#policy = policy
    this.#roots = roots
  }

  /** Never rejects for what concerns the one file; rejects when the connection or the hold on the step is lost. */
  async run(step: AfterUploadStep, hold: StepHold): Promise<AfterUploadOutcome> {
    try {
      return await (this.#policy.afterUpload === 'keep' ? this.#keep(step, hold) : this.#run(step, hold))
    } catch (error) {
      if (this.#sftp.closed.aborted || LOST.includes(errorType(error))) throw error
      return { kind: 'retry', error: recordedError(error, hold.now()) }
    }
  }

  async #run(step: AfterUploadStep, hold: StepHold): Promise<AfterUploadOutcome> {
    const aside = asideOf(step)
    let found = await this.#look(aside)
    if (found === null) {
      const before = await this.#look(step.path)
      if (before === null) return this.#gone(step)
      if (!isRecorded(before, step)) return this.#another(before, step)
      hold.check()
      await this.#sftp.rename(step.path, aside).catch(unlessGone)
      found = await this.#look(aside)
    }
    if (found === null) return this.#gone(step)
    if (!isRecorded(found, step)) {
      await this.#putBackSafely(aside, step)
      return this.#another(found, step)
    }
    await failpoint('after-set-aside')
    hold.check()
    try {
      const outcome = await this.#clear(aside, step)
      await failpoint('after-post-action')
      return outcome
    } catch (error) {
      // Under its own name the partner finds it, whatever becomes of the next attempt.
      if (!this.#sftp.closed.aborted && (await this.#look(step.path)) === null) await this.#putBack(aside, step.path)
      throw error
    }
  }

  /**
   * The policy keeps files by now. Nothing is touched but what a worker that died has set aside, since no scan would ever
   * find it there. What such a worker had deleted or moved already stays so, and its name is free for a next version.
   */
  async #keep(step: AfterUploadStep, hold: StepHold): Promise<AfterUploadOutcome> {
    const aside = asideOf(step)
    if (await this.#look(aside)) {
      hold.check()
      await this.#putBackSafely(aside, step)
    }
    const there = await this.#look(step.path)
    if (there === null) return { kind: 'gone' }
    return { kind: isRecorded(there, step) || this.#isFollowed(there) ? 'kept' : 'left' }
  }

  /** What has the name now is not ours to touch; a folder or a link in its place is no file that a scan would take. */
  #another(found: Attributes, step: AfterUploadStep): AfterUploadOutcome {
    if (!this.#isFollowed(found)) return { kind: 'left' }
    throw new IngestError('SFTP_FAILURE', `${JSON.stringify(step.path)} is a link: only files are deleted or moved.`)
  }

  /** What was recorded lies elsewhere then. */
  #isFollowed({ kind }: Attributes): boolean {
    return kind === 'symlink' && this.#policy.symlinks === 'follow'
  }

  async #clear(aside: string, step: AfterUploadStep): Promise<AfterUploadOutcome> {
    if (this.#policy.afterUpload === 'delete') {
      await this.#sftp.unlink(aside).catch(unlessGone)
      return { kind: 'deleted' }
    }
    const target = this.#target(step)
    await this.#makeFolder(folderOf(target))
    const to = await this.#freeName(target, step.id)
    await this.#sftp.rename(aside, to)
    return { kind: 'moved', to }
  }

  /** Gone by the partner's hand, or by a worker that died before it could say so. */
  async #gone(step: AfterUploadStep): Promise<AfterUploadOutcome> {
    if (this.#policy.afterUpload === 'delete') return { kind: 'gone' }
    const target = this.#target(step)
    for (const to of [numbered(target, step.id, 1), target]) {
      const there = await this.#look(to)
      if (there && isRecorded(there, step)) return { kind: 'moved', to }
    }
    return { kind: 'gone' }
  }

  /** Under its own name, or one beside it where that is taken. */
  async #putBackSafely(aside: string, step: AfterUploadStep): Promise<void> {
    await this.#putBack(aside, await this.#freeName(step.path, step.id))
  }

  async #putBack(aside: string, path: string): Promise<void> {
    await this.#sftp.rename(aside, path).catch(unlessGone)
  }

  /** The path below the root stays the same below the folder, so that equal names of several folders do not meet. */
  #target(step: AfterUploadStep): string {
    const { move } = this.#policy.afterUpload as { move: string }
    const place = placeOf(
      { ...this.#policy, movedInto: [], maxDepth: Number.POSITIVE_INFINITY, recursive: true },
      this.#roots,
      step.path
    )
    if (place.kind === 'ignored')
      throw new IngestError('SFTP_FAILURE', `${JSON.stringify(step.path)} lies outside the roots now.`)
    return join(move.startsWith('/') ? move : join(place.root, move), place.relative)
  }

  /** The path itself, or one with the file's id in its name where it is taken. */
  async #freeName(path: string, id: string): Promise<string> {
    for (let n = 0; n < MAX_NAMES; n++) {
      const name = n === 0 ? path : numbered(path, id, n)
      if ((await this.#look(name)) === null) return name
    }
    throw new IngestError('SFTP_FAILURE', `Could not find a free name for ${JSON.stringify(path)}.`)
  }

  async #makeFolder(path: string): Promise<void> {
    if (path === '/' || this.#folders.has(path)) return
    const there = await this.#stat(path)
    if (there && there.kind !== 'folder') {
      throw new IngestError('SFTP_FAILURE', `Could not move a file into ${JSON.stringify(path)}: it is no folder.`)
    }
    if (!there) {
      await this.#makeFolder(folderOf(path))
      await this.#sftp.mkdir(path).catch(async (error) => {
        // Another worker may have made it.
        if ((await this.#stat(path))?.kind !== 'folder') throw error
      })
    }
    this.#folders.add(path)
  }

  #look(path: string): Promise<Attributes | null> {
    return this.#sftp.lstat(path).catch(unlessGone)
  }

  #stat(path: string): Promise<Attributes | null> {
    return this.#sftp.stat(path).catch(unlessGone)
  }
}

function isRecorded(found: Attributes, step: AfterUploadStep): boolean {
  return found.kind === 'file' && found.sizeBytes === step.size && found.mtimeSeconds * 1000 === step.mtime
}

function unlessGone(error: unknown): null {
  if (errorType(error) === 'SFTP_NO_SUCH_PATH') return null
  throw error
}

function asideOf({ path, id }: AfterUploadStep): string {
  return beside(path, `${OWN_PREFIX}${id}`)
}

function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/')) || '/'
}

function join(folder: string, name: string): string {
  return folder.endsWith('/') ? folder + name : `${folder}/${name}`
}

function beside(path: string, name: string): string {
  return join(folderOf(path), name)
}

/** `a.csv` as `a~<8 characters of the id>.csv`: it keeps its extension, by which patterns know it. */
function numbered(path: string, id: string, n: number): string {
  const name = path.slice(path.lastIndexOf('/') + 1)
  const dot = name.lastIndexOf('.')
  const [stem, extension] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, '']
  return beside(path, `${stem}~${id.slice(0, 8)}${n === 1 ? '' : `-${n}`}${extension}`)
}
