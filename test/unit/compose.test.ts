import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { parse } from 'yaml'
import { knownVariables, loadConfig, serviceNames } from '../../config.ts'

interface Service {
  build?: unknown
  command?: string[]
  environment?: Record<string, string | number>
  healthcheck?: { test: string[] }
  depends_on?: Record<string, { condition: string }>
  networks?: string[]
  volumes?: string[]
}

const root = join(import.meta.dirname, '../..')
const compose: { services: Record<string, Service>; networks: object; volumes: object } = parse(
  readFileSync(join(root, 'docker-compose.yml'), 'utf8'),
  { merge: true }
)
const services = Object.entries(compose.services)
const example = readFileSync(join(root, '.env.example'), 'utf8')
const exampleNames = [...example.matchAll(/^([A-Z0-9_]+)=/gm)].map(([, name]) => name!)
const key = Buffer.alloc(32, 1).toString('base64')

/** An environment as Compose hands it over, with every `${NAME}` filled in. */
function environmentOf(name: string): Record<string, string> {
  const filled: Record<string, string> = { ENCRYPTION_KEY: key, API_KEYS: 'ana:admin:secret' }
  const given = compose.services[name]?.environment ?? {}
  const fill = (value: string | number) =>
    String(value).replace(
      /\$\{(\w+)(?::-([^}]*)|:\?)?\}/g,
      (_, variable, initial) => initial ?? filled[variable] ?? 'x'
    )
  return Object.fromEntries(Object.entries(given).map(([variable, value]) => [variable, fill(value)]))
}

describe('docker-compose.yml', () => {
  test.each(serviceNames)('%s has a container of its own, with an environment that the program takes', (name) => {
    const environment = environmentOf(name)
    expect(Object.keys(environment).filter((variable) => !knownVariables.includes(variable))).toEqual([])
    expect(loadConfig(environment)).toMatchObject({ services: [name], embedded: false })
    expect(loadConfig(environment).amqp?.queue).toBeTruthy()
  })

  test('every container has a health check, its own or its image’s', () => {
    const isChecked = readFileSync(join(root, 'Dockerfile'), 'utf8').includes('\nHEALTHCHECK ')
    for (const [name, { build, command, healthcheck }] of services) {
      const hasImages = build === '.' && command === undefined && isChecked
      expect([name, hasImages || healthcheck !== undefined]).toEqual([name, true])
    }
  })

  test('a process without the api has the port that its health check asks', () => {
    for (const name of serviceNames) {
      if (name !== 'api') expect(loadConfig(environmentOf(name)).metricsPort).toBeGreaterThan(0)
    }
  })

  test('what a container waits for, its networks and its volumes exist', () => {
    for (const [, service] of services) {
      for (const [other, { condition }] of Object.entries(service.depends_on ?? {})) {
        expect(Object.keys(compose.services)).toContain(other)
        expect(condition).toBe('service_healthy')
      }
      for (const network of service.networks ?? []) expect(Object.keys(compose.networks)).toContain(network)
      for (const volume of service.volumes ?? []) expect(Object.keys(compose.volumes)).toContain(volume.split(':')[0])
    }
  })

  test('every secret that has to be given stands in .env.example', () => {
    const text = readFileSync(join(root, 'docker-compose.yml'), 'utf8')
    const required = [...text.matchAll(/\$\{(\w+):\?\}/g)].map(([, name]) => name!)
    expect(required.filter((name) => !exampleNames.includes(name))).toEqual([])
  })

  test('no name in .env.example is without a use', () => {
    const text = readFileSync(join(root, 'docker-compose.yml'), 'utf8')
    expect(exampleNames.filter((name) => !text.includes(`\${${name}`))).toEqual([])
  })
})

describe('Dockerfile', () => {
  test('starts Node as npm start does', () => {
    const dockerfile = readFileSync(join(root, 'Dockerfile'), 'utf8')
    const command: string[] = JSON.parse(/^CMD (\[.*\])$/m.exec(dockerfile)![1]!)
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
    // Variables before it are for a folder that is started again and again.
    expect(scripts.start.replace(/^(\w+=\S+ )+/, '')).toBe(`exec ${command.join(' ')}`)
  })
})
