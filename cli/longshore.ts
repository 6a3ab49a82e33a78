/** The `longshore` command: exit code 0 when all is well, 1 when something is not, 2 for wrong usage. */
import { Command, CommanderError } from 'commander'
import { doctor, doctorTable } from './doctor.ts'

const USAGE = 2

const program = new Command('longshore')
  .description('Unloads files from SFTP servers into S3, proves each copy, and announces it on RabbitMQ')
  .exitOverride()

program
  .command('doctor')
  .description('checks the configuration and every backend that it names, and says what to mend')
  .option('--json', 'one JSON document instead of a table')
  .action(async ({ json }: { json?: boolean }) => {
    const checks = await doctor(process.env)
    const isOk = checks.every(({ state }) => state !== 'failed')
    console.log(json ? JSON.stringify({ ok: isOk, checks }, null, 2) : doctorTable(checks))
    process.exitCode = isOk ? 0 : 1
  })

try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  process.exitCode = error.exitCode === 0 ? 0 : USAGE
}
