/** Sample files as partners send them: text, CSV, a picture, an empty one, a large one, odd names, nested folders. */
import { randomBytes } from 'node:crypto'
import { appendFile, mkdir, rename, utimes, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { crc32, deflateSync } from 'node:zlib'

const LARGE_BYTES = 64 * 1024 * 1024

async function put(root: string, path: string, content: string | Buffer): Promise<void> {
  const file = join(root, path)
  await mkdir(dirname(file), { recursive: true })
  await writeFile(file, content)
}

function csv(rows: number): string {
  const lines = ['invoice,customer,amount,currency']
  for (let row = 1; row <= rows; row++)
    lines.push(`INV-${10_000 + row},customer ${row % 37},${(row * 13.37).toFixed(2)},EUR`)
  return `${lines.join('\n')}\n`
}

/** A small PNG of a colour gradient (PNG specification, W3C, chapters 5 and 11). */
function picture(width = 160, height = 120): Buffer {
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
    const frame = Buffer.alloc(8)
    frame.writeUInt32BE(data.length, 0)
    frame.writeUInt32BE(crc32(body), 4)
    return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)])
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header.set([8, 2, 0, 0, 0], 8)
  const rows = Buffer.alloc((width * 3 + 1) * height)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++)
      rows.set([(x * 255) / width, (y * 255) / height, 160], y * (width * 3 + 1) + 1 + x * 3)
  }
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(rows)),
    chunk('IEND', Buffer.alloc(0))
  ])
}

/** Writes the samples below `root`; answers how many files there are. */
export async function writeSamples(root: string): Promise<number> {
  const samples: [string, string | Buffer][] = [
    ['outgoing/readme.txt', 'Files for our partners.\n'],
    ['outgoing/orders.csv', csv(2_000)],
    ['outgoing/logo.png', picture()],
    ['outgoing/empty.flag', ''],
    ['outgoing/archive.bin', randomBytes(LARGE_BYTES)],
    ['outgoing/price list, final (2).csv', csv(50)],
    ['outgoing/отчёт за ноябрь.txt', 'Привет из отчёта.\n'],
    ['outgoing/🚢 manifest.json', JSON.stringify({ vessel: 'Longshore', containers: 42 })],
    ['invoices/2024/11/INV-1001.xml', '<invoice number="INV-1001"><total currency="EUR">99.50</total></invoice>\n'],
    ['invoices/2024/12/INV-1002.xml', '<invoice number="INV-1002"><total currency="EUR">12.00</total></invoice>\n'],
    ['invoices/2025/01/deep/er/still/INV-1003.xml', '<invoice number="INV-1003"/>\n']
  ]
  for (const [path, content] of samples) await put(root, path, content)
  const lastYear = new Date(Date.now() - 365 * 86_400_000)
  await utimes(join(root, 'invoices/2024/11/INV-1001.xml'), lastYear, lastYear)
  return samples.length
}

/** A file that a partner is still uploading: a line every `everyMs`, `lines` times. Resolves when it is whole. */
export async function growFile(
  root: string,
  path: string,
  lines: number,
  everyMs: number,
  signal: AbortSignal
): Promise<void> {
  await put(root, path, 'line 1\n')
  await new Promise<void>((resolve) => {
    let line = 1
    const timer = setInterval(async () => {
      line++
      if (signal.aborted || line > lines) {
        clearInterval(timer)
        resolve()
        return
      }
      await appendFile(join(root, path), `line ${line}\n`)
    }, everyMs)
  })
}

/** Drops a new file in every `everyMs`, the way careful partners do: under a temporary name, then renamed. Answers how to stop it. */
export function dropMore(root: string, everyMs: number): () => void {
  let number = 0
  const timer = setInterval(async () => {
    number++
    const name = `delivery-${String(number).padStart(4, '0')}.csv`
    await put(root, `deliveries/${name}.part`, csv(20 + Math.floor(Math.random() * 5_000)))
    await rename(join(root, `deliveries/${name}.part`), join(root, `deliveries/${name}`))
  }, everyMs)
  return () => clearInterval(timer)
}
