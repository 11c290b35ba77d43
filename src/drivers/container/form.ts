import type { ImageUse } from '../../images/store.ts'
import type { DriverFacts } from '../../model/node.ts'
import type { Driver } from '../driver.ts'

/** One of the two ways in which this driver makes containers. */
export interface Form extends Pick<Driver, 'prepare' | 'start' | 'adopt' | 'remove'> {
  /** Still able to work? Asked often, so it does not try everything again. */
  check(): Promise<DriverFacts>
  /** Least recently used first. */
  images(): Promise<ImageUse[]>
  /** Removes unused images, least recently used first, until they take no more than this; says which went. */
  evict(budgetBytes: number): Promise<string[]>
}
