import { statfs } from 'node:fs/promises'
import type { Driver } from '../drivers/driver.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import { Wakeup } from '../kit/wakeup.ts'
import { sentence } from '../model/fault.ts'
import { formatSize } from '../model/units.ts'

/**
 * Images pile up with every version of every job. Now and then, and soon after something new was prepared, each driver
 * that keeps images is told how much they may take; which go, and which are in use, is the driver's to know.
 */
export class ImageKeeper {
  readonly #drivers: readonly ImageDriver[]
  readonly #budgetBytes: number
  readonly #clock: Clock
  readonly #log: Log
  readonly #wakeup = new Wakeup()
  readonly #said = new Map<string, string>()

  constructor(options: { drivers: readonly Driver[]; budgetBytes: number; clock: Clock; log: Log }) {
    this.#drivers = options.drivers.filter(keepsImages)
    this.#budgetBytes = options.budgetBytes
    this.#clock = options.clock
    this.#log = options.log
  }

  /** Something was prepared: there may be an image more. */
  ring(): void {
    if (this.#drivers.length > 0) this.#wakeup.ring()
  }

  /** Until aborted. `works` tells whether a driver can be asked at all. */
  async run(works: (driver: string) => boolean, { signal }: { signal: AbortSignal }): Promise<void> {
    if (this.#drivers.length === 0) return
    while (!signal.aborted) {
      await this.#wakeup.next({ clock: this.#clock, withinMs: cycleMs, signal })
      // One look for all that is prepared in a row.
      await this.#clock.sleep(settleMs, { signal }).catch(() => {})
      for (const driver of this.#drivers) if (!signal.aborted && works(driver.name)) await this.#evict(driver)
    }
  }

  async #evict(driver: ImageDriver): Promise<void> {
    const { name } = driver
    try {
      const removed = await driver.evict(this.#budgetBytes)
      this.#said.delete(name)
      if (removed.length === 0) return
      const budget = formatSize(this.#budgetBytes)
      this.#log.info({ driver: name, images: removed }, `unused images were removed, to stay within ${budget}`)
    } catch (error) {
      const message = `images could not be removed: ${sentence(error)}`
      if (this.#said.get(name) !== message) this.#log.warn({ driver: name, err: error }, message)
      this.#said.set(name, message)
    }
  }
}

/** 20 GiB, or a tenth of the disk where that is less. */
export async function usualImageBudget(directory: string): Promise<number> {
  const { blocks, bsize } = await statfs(directory).catch(() => ({ blocks: Number.POSITIVE_INFINITY, bsize: 1 }))
  return Math.min(mostImageBytes, Math.floor((blocks * bsize) / 10))
}

export const mostImageBytes = 20 * 2 ** 30
const cycleMs = 10 * 60_000
const settleMs = 10_000

type ImageDriver = Driver & Required<Pick<Driver, 'evict'>>

function keepsImages(driver: Driver): driver is ImageDriver {
  return driver.evict !== undefined
}
