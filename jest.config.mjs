/** Tests run on the sources as they are: types are stripped, modules stay ES modules. */
export default {
  testEnvironment: 'node',
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '\\.ts$': '<rootDir>/test/support/strip-types.cjs' },
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  moduleFileExtensions: ['ts', 'js', 'mjs', 'cjs', 'json', 'node'],
  // Real servers start within a test or its hooks, and more of them at once than cores would only time each other out.
  testTimeout: 120_000,
  maxWorkers: 2
}
