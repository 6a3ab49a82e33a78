/** What is measured, and what each measurement has to show. Goals are ratios: absolute figures are the machine's. */

export interface Goal {
  /** `rate`: bytes or files a second, Longshore's over rclone's. `cpu`: CPU seconds, the same. `rssMB`: Longshore's own. */
  of: 'rate' | 'cpu' | 'rssMB'
  atLeast?: number
  atMost?: number
}

export interface Case {
  name: string
  title: string
  files: number
  sizeBytes: number
  /** Holes instead of bytes: for sizes that would only cost disk. */
  sparse?: boolean
  /**
   * Longshore has copied as many files so often since its start: a service runs for weeks, and V8 has compiled what it does
   * often by then. rclone is a program that is compiled before it starts.
   */
  roundsBefore?: number
  /** Of the server's policy; crc32 by default. */
  checksum?: 'crc32' | 'sha256'
  /**
   * The store keeps its objects in memory. A PUT of MinIO makes and removes folders, and ext4 looks at each inode that was
   * removed in the last seconds when it makes one: of many small files, run after run, that would be what is measured.
   */
  storeInMemory?: boolean
  /** Round trip to the SFTP server. */
  delayMs?: number
  unit: 'MB/s' | 'files/s'
  runs: number
  /** rclone's --transfers to choose from; the fastest one is measured. */
  transfers: number[]
  /** Whether the straightforward way is measured too, once. */
  naive?: boolean
  goals: Goal[]
}

const KiB = 1024
const MiB = 1024 * KiB
const GiB = 1024 * MiB

const small: Omit<Case, 'name' | 'title' | 'goals'> = {
  files: 2000,
  sizeBytes: 16 * KiB,
  storeInMemory: true,
  unit: 'files/s',
  runs: 3,
  transfers: [4, 16, 32]
}

const many: Omit<Case, 'name' | 'title'> = {
  files: 16,
  sizeBytes: 128 * MiB,
  unit: 'MB/s',
  runs: 3,
  transfers: [4, 16],
  goals: [
    { of: 'rate', atLeast: 1.3 },
    { of: 'rssMB', atMost: 200 }
  ]
}

export const cases: Case[] = [
  {
    name: 'big',
    title: '1 GiB, loopback',
    files: 1,
    sizeBytes: GiB,
    unit: 'MB/s',
    runs: 3,
    transfers: [4],
    naive: true,
    goals: [
      { of: 'rate', atLeast: 1.7 },
      { of: 'cpu', atMost: 0.8 }
    ]
  },
  {
    name: 'big-sha256',
    title: '1 GiB, loopback, SHA-256',
    files: 1,
    sizeBytes: GiB,
    checksum: 'sha256',
    unit: 'MB/s',
    runs: 3,
    transfers: [4],
    goals: []
  },
  {
    name: 'big-20ms',
    title: '1 GiB, 20 ms round trip',
    files: 1,
    sizeBytes: GiB,
    delayMs: 20,
    unit: 'MB/s',
    runs: 3,
    transfers: [4],
    goals: [{ of: 'rate', atLeast: 1.5 }]
  },
  {
    name: 'big-100ms',
    title: '1 GiB, 100 ms round trip',
    files: 1,
    sizeBytes: GiB,
    delayMs: 100,
    unit: 'MB/s',
    runs: 3,
    transfers: [4],
    goals: [{ of: 'rate', atLeast: 3 }]
  },
  {
    name: 'small',
    title: '2,000 x 16 KiB, loopback, the first after the start',
    ...small,
    naive: true,
    goals: [{ of: 'rate', atLeast: 2 }]
  },
  {
    name: 'small-running',
    title: '2,000 x 16 KiB, loopback, while it runs',
    ...small,
    roundsBefore: 2,
    goals: [{ of: 'rate', atLeast: 2 }]
  },
  {
    name: 'small-20ms',
    title: '2,000 x 16 KiB, 20 ms round trip',
    ...small,
    delayMs: 20,
    goals: [{ of: 'rate', atLeast: 3 }]
  },
  {
    name: 'many',
    title: '16 x 128 MiB, loopback',
    ...many
  },
  {
    // A store waits for its disk at the end of each part and file, and a disk that takes less than Longshore sends is all
    // that the case above shows.
    name: 'many-in-memory',
    title: '16 x 128 MiB, loopback, the store in memory',
    ...many,
    storeInMemory: true
  },
  {
    name: 'huge',
    title: '8 GiB, sparse, loopback',
    files: 1,
    sizeBytes: 8 * GiB,
    sparse: true,
    unit: 'MB/s',
    runs: 1,
    transfers: [4],
    goals: [{ of: 'rssMB', atMost: 200 }]
  }
]
