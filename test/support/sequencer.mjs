/**
 * The order of test files: those that take minutes come first, so that no long one is left over at the end while the other
 * worker has nothing to do. Jest knows times of earlier runs only, and there are none in a fresh clone.
 */
import { statSync } from 'node:fs'

const folders = ['chaos', 'simulation', 'integration', 'contract', 'unit']

function place({ path }) {
  return folders.findIndex((folder) => path.includes(`/test/${folder}/`))
}

export default class Sequencer {
  /** Of one folder, the longer sources first. */
  sort(tests) {
    const sizes = new Map(tests.map(({ path }) => [path, statSync(path).size]))
    return [...tests].sort((a, b) => place(a) - place(b) || sizes.get(b.path) - sizes.get(a.path))
  }

  allFailedTests(tests) {
    return tests
  }

  cacheResults() {}
}
