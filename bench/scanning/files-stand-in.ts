/** Counts what a scan registers where `files` would write it down. */
import type { ServiceSchema } from 'moleculer'
import type { Sighting } from '../../domain/readiness.ts'

interface Counts {
  batches: number
  sightings: number
}

export const standInForFiles: ServiceSchema = {
  name: 'files',
  actions: {
    /** In the second scan it says of everything that there is nothing to do for it. */
    register(ctx: { params: { rules: { scanEpoch: number }; sightings: Sighting[] } }) {
      const { rules, sightings } = ctx.params
      const isNew = rules.scanEpoch === 1
      this.counts.batches++
      this.counts.sightings += sightings.length
      const counts = {
        new: isNew ? sightings.length : 0,
        settling: 0,
        pending: isNew ? sightings.length : 0,
        skipped: 0
      }
      return { ...counts, atRest: isNew ? [] : sightings.map((_, index) => index), disturbed: [] }
    },
    unstored: () => [],
    vanished: () => undefined,
    claimLooks: () => [],
    claimAfterUploads: () => [],
    counts(): Counts {
      const { counts } = this
      this.counts = { batches: 0, sightings: 0 }
      return counts
    }
  },
  created() {
    this.counts = { batches: 0, sightings: 0 }
  }
}
