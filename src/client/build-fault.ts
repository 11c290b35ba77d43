import type { PublicBuild } from '../contract/build.ts'
import { Fault } from '../model/fault.ts'

/** A build that failed, or that is there no more to be used. Its `failure` tells the causes apart. */
export class BuildFault extends Fault {
  readonly build: PublicBuild

  constructor(build: PublicBuild) {
    const { failure = 'conflict' } = build
    super(failure === 'step' ? 'invalid' : failure, build.error ?? `build ${build.id} is ${build.status}`)
    this.build = build
  }
}
