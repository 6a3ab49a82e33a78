/** Tests run on the sources as they are: types are stripped, modules stay ES modules. */
export default {
  testEnvironment: 'node',
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '\\.ts$': '<rootDir>/test/support/strip-types.cjs' },
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  moduleFileExtensions: ['ts', 'js', 'mjs', 'cjs', 'json', 'node'],
  // Real servers start within hooks and tests, which have to outlast them: START_MS of test/support/process.ts for these,
  // and as much for Longshore on them.
  testTimeout: 400_000,
  // More files of real servers at once than cores would only time each other out.
  maxWorkers: 2,
  // Without times of an earlier run, as in a fresh clone, jest begins with the longest source.
  testSequencer: '<rootDir>/test/support/sequencer.mjs',
  // ES modules that a test file imported are never freed: a worker with a larger heap is replaced between two files.
  workerIdleMemoryLimit: '300MB'
}
