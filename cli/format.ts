/** How values are shown in a terminal. */
import type { ServerRecord } from '../domain/server.ts'

/** Names on servers are hostile: control characters would move the cursor or hide what follows. */
export function visible(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is made visible
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (character) => {
    const escaped = JSON.stringify(character).slice(1, -1)
    return escaped.length > 1 ? escaped : `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
}

export function bytes(size: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = size
  let unit = 0
  while (Number(value.toFixed(1)) >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}

export function since(at: number | null): string {
  if (at === null) return 'never'
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000))
  return seconds < 120
    ? `${seconds} s ago`
    : seconds < 7200
      ? `${Math.round(seconds / 60)} min ago`
      : new Date(at).toISOString()
}

/** When a server is scanned next, and why not by its schedule. */
export function nextScan(
  server: Pick<ServerRecord, 'state' | 'failures' | 'scanLeaseUntil' | 'nextScanAt'>,
  now: number
): string {
  if (server.state !== 'active') return server.state === 'paused' ? 'when resumed' : 'when mended'
  if (server.scanLeaseUntil > now) return 'is running'
  const seconds = Math.max(0, Math.round((server.nextScanAt - now) / 1000))
  const when = seconds < 7200 ? `in ${seconds} s` : new Date(server.nextScanAt).toISOString()
  return server.failures > 0 ? `${when}, after ${server.failures} failures` : when
}
