#!/usr/bin/env node
// The `longshore` command. The program itself runs on the Node that its package brings, whatever Node started this.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const entry = join(import.meta.dirname ?? dirname(new URL(import.meta.url).pathname), 'longshore.ts')
if (Number(process.versions.node.split('.')[0]) >= 24) await import(entry)
else {
  const node = join(dirname(createRequire(import.meta.url).resolve('node/package.json')), 'bin/node')
  const { status, error } = spawnSync(node, [entry, ...process.argv.slice(2)], { stdio: 'inherit' })
  if (error) console.error(`longshore: the Node that it runs on cannot be started (${error.message}); run npm ci again`)
  process.exitCode = status ?? 1
}
