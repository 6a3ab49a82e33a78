/**
 * Folders that this process holds by a lock: whatever another process left there unfinished is dead. The database notes
 * them; kept apart from it, so that whoever asks does not load it.
 */
import { resolve } from 'node:path'

const held = new Set<string>()

export function noteHeldFolder(path: string): void {
  held.add(resolve(path))
}

export function noteLostFolder(path: string): void {
  held.delete(resolve(path))
}

export function isHeldFolder(path: string): boolean {
  return held.has(resolve(path))
}
