import { type Stats, statSync } from 'node:fs'

/**
 * Whether a path still names the file that was opened by it: no more after a rotation, a removal or a replacement. It looks
 * at once, since another thread would cost ten times as much as the look.
 */
export function isStillNamed(path: string, { ino, dev }: Pick<Stats, 'ino' | 'dev'>): boolean {
  const named = statSync(path, { throwIfNoEntry: false })
  return named?.ino === ino && named.dev === dev
}
