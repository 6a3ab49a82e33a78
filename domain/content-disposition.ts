/**
 * The header that names a download (RFC 6266): `filename*` carries the name as it is (RFC 8187), `filename` a plain
 * one for those that cannot read that. Names are hostile: nothing in them may end the header, begin another one, or
 * name a folder.
 */
export function contentDisposition(filename: string): string {
  const name = filename.toWellFormed()
  // Appendix D of RFC 6266: neither quotes, backslashes nor percent signs, which readers take in different ways.
  const plain = name.replace(/[^\x20-\x7e]|["\\%/]/gu, '_')
  const isPlain = plain === name && name.trim() === name && name !== ''
  return `attachment; filename="${plain || '_'}"${isPlain ? '' : `; filename*=UTF-8''${encoded(name)}`}`
}

/** The attr-chars of RFC 8187, section 3.2.1, stay; everything else is percent-encoded UTF-8. */
function encoded(text: string): string {
  return encodeURIComponent(text).replace(/['()*]/g, (mark) => `%${mark.charCodeAt(0).toString(16).toUpperCase()}`)
}
