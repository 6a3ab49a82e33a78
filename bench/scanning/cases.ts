/** The claims about scanning, each with the script that measures it. */
import type { ScanCase } from './finding.ts'
import { scanMillionFiles } from './scan-1m.ts'
import { scanLargeFolder } from './scan-100k.ts'
import { scanManyServers } from './servers-10k.ts'

export const scanCases: ScanCase[] = [
  { name: 'scan-100k', title: 'one folder of 100,000 files, OpenSSH', run: scanLargeFolder },
  { name: 'scan-1m', title: 'a million files in 1,000 folders, scripted server', run: scanMillionFiles },
  { name: 'servers-10k', title: '10,000 servers at 60 s, two scanners', run: scanManyServers }
]
