/** What an operator can do with a file by hand: each way is a transition, and whether it is open only that can tell. */
import { announceAgain, cancel, retry } from './file.ts'
import type { FileRecord } from './file-record.ts'
import { refetch } from './refetch.ts'

type Change = (file: FileRecord, now: number) => FileRecord | null

/** By the last part of their call's path. */
const ways: Record<string, { change: Change; does: string }> = {
  retry: { change: retry, does: 'tries it again' },
  refetch: { change: refetch, does: 'copies it again' },
  notify: { change: announceAgain, does: 'announces it again' },
  cancel: { change: cancel, does: 'ends it' }
}

/** Why a file in its state cannot `what` ("be retried"), and which other calls would do something with it. */
export function refusedByHand(file: FileRecord, what: string, now: number): string {
  const open = Object.entries(ways).filter(([, { change }]) => change(file, now) !== null)
  const others = open.map(([call, { does }]) => `/${call} ${does}`).join(', ')
  return `a file that is ${file.status} cannot ${what}${others && `; ${others}`}`
}
