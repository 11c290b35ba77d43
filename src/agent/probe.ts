/** The seam to the network for health checks. Both reject with a sentence when the check does not pass. */
export interface Probe {
  /** Passes on any status from 200 to 399. */
  http(target: { host: string; port: number; path: string }, options: { signal: AbortSignal }): Promise<void>
  tcp(target: { host: string; port: number }, options: { signal: AbortSignal }): Promise<void>
}
