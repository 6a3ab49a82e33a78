/** Files for an SFTP server's folder: contents that repeat nowhere, names that people and programs trip over. */
import { createCipheriv, createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rename } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

const CHUNK_BYTES = 1024 * 1024

/** Writes `sizeBytes` that depend on the path, aside first, so that no listing sees half a file. */
export async function writeSource(root: string, path: string, sizeBytes: number): Promise<void> {
  const target = join(root, path)
  await mkdir(dirname(target), { recursive: true })
  const draft = join(root, `.draft-${createHash('sha1').update(path).digest('hex')}`)
  await pipeline(Readable.from(noise(path, sizeBytes)), createWriteStream(draft))
  await rename(draft, target)
}

/** A key stream: as fast as the processor's AES, and no two paths have the same. */
function* noise(seed: string, sizeBytes: number): Generator<Buffer> {
  const key = createHash('sha256').update(seed).digest()
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  for (let left = sizeBytes; left > 0; left -= CHUNK_BYTES)
    yield cipher.update(Buffer.alloc(Math.min(left, CHUNK_BYTES)))
}

export const hostileNames = [
  'new\nline.txt',
  'carriage\rreturn',
  'tab\there',
  '"double quotes".csv',
  "it's single",
  '🚢 manifest 🧾.json',
  'é composed'.normalize('NFC'),
  'é composed'.normalize('NFD'),
  '  spaces  around  ',
  '100% sure %2F %00.txt',
  'percent%',
  '~tilde~',
  'back\\slash\\..\\up',
  '-rf',
  '--help',
  'question?star*.txt',
  'semi;colon&amp;ersand<tag>',
  '$(touch pwned) `id` $HOME',
  '#hash +plus =equals',
  'x'.repeat(255),
  `${'ж'.repeat(127)}y`,
  'Case',
  'case',
  '...',
  '.. ',
  'con',
  'trailing.',
  'ﷺ اللغة العربية',
  '\u202egnp.exe',
  'del\u007f\u0001bell\u0007'
]
