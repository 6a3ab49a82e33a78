/**
 * Markers: a partner says that a file is finished by another file beside it. Three ways, one of them a server:
 *
 *   {suffix: ".done"}      a.csv waits for a.csv.done
 *   {extension: ".done"}   a.csv waits for a.done
 *   {file: "_SUCCESS"}     every file of a folder waits for _SUCCESS in that folder
 *
 * A marker counts when it is not older than its file: one that stayed from an earlier delivery says nothing about a
 * later one of the same name.
 */
export type MarkerPolicy = { suffix: string } | { extension: string } | { file: string }

/** Whether a name is that of a marker, with or without a file that waits for it. */
export function isMarker(marker: MarkerPolicy, name: string): boolean {
  if ('file' in marker) return name === marker.file
  const end = 'suffix' in marker ? marker.suffix : marker.extension
  return name.length > end.length && name.endsWith(end)
}

/** The name of the marker that a file waits for, in the same folder. */
export function markerName(marker: MarkerPolicy, name: string): string {
  if ('file' in marker) return marker.file
  if ('suffix' in marker) return name + marker.suffix
  const dot = name.lastIndexOf('.')
  return (dot > 0 ? name.slice(0, dot) : name) + marker.extension
}

/** What a file waits for, in words; null when its marker is there. Times are ms since the epoch. */
export function missingMarker(marker: MarkerPolicy, name: string, mtime: number, markerMtime: number | null) {
  if (markerMtime === null) return `waits for its marker ${markerName(marker, name)}`
  if (markerMtime < mtime) return `waits for its marker ${markerName(marker, name)}, which is older than the file`
  return null
}
