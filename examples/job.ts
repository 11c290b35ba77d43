import { job } from 'tutti'

/**
 * Jobs as a program: what repeats is written once, and an editor knows what may stand where. Every exported job counts.
 *
 *   tutti plan examples/job.ts
 *   tutti run examples/job.ts
 *
 * The file runs in a process of its own; `tutti` is found wherever the file lies.
 */
const regions = ['north', 'south']

const clock = (region: string) =>
  job({
    name: `clock-${region}`,
    count: 2,
    labels: { region },
    tasks: {
      clock: {
        driver: 'process',
        command: ['/bin/sh', '-c', 'while true; do echo "$REGION: $(date)"; sleep 5; done'],
        env: { REGION: region },
        resources: { cpu: '20MHz', memory: '16MiB' },
      },
    },
  })

export const clocks = regions.map(clock)
