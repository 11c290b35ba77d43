import type { JobInput } from '../../model/job.ts'

/** What the demo deploys: a service that is healed when a copy dies, a batch job, and a container where one can run. */
export function demoJobs({
  source,
  checksum,
  image,
}: {
  source: string
  checksum: string
  image: string | undefined
}): JobInput[] {
  const web: JobInput = {
    name: 'hello-web',
    type: 'service',
    count: 3,
    ports: { http: 'dynamic' },
    restart: { attempts: 2, delay: '500ms' },
    tasks: {
      web: {
        driver: 'process',
        command: 'local/hello-web',
        artifacts: [{ url: `http://${source}/hello-web`, checksum, mode: '0755' }],
        env: { GREETING: 'Hello' },
        resources: { cpu: '50MHz', memory: '128MiB' },
        checks: [{ type: 'http', port: 'http', interval: '1s' }],
      },
    },
  }
  const batch: JobInput = {
    name: 'hello-batch',
    type: 'batch',
    count: 2,
    tasks: {
      count: {
        driver: 'process',
        command: ['/bin/sh', '-c', 'for n in 1 2 3; do echo "copy $TUTTI_SLOT counts $n"; sleep 1; done'],
        resources: { cpu: '20MHz', memory: '16MiB' },
      },
    },
  }
  const container: JobInput = {
    name: 'hello-container',
    type: 'service',
    tasks: {
      clock: {
        driver: 'container',
        image: image ?? '',
        command: ['/bin/sh', '-c', 'while true; do echo "it is $(date) in here"; sleep 5; done'],
        resources: { cpu: '20MHz', memory: '32MiB' },
        kill: { grace: '1s' },
      },
    },
  }
  return image === undefined ? [web, batch] : [web, batch, container]
}
