import { Fault } from '../../model/fault.ts'
import { encodeId } from '../../model/ids.ts'
import { type JobInput, JobSpec } from '../../model/job.ts'
import type { Cli, Given } from '../cli.ts'
import { flagOption, readPairs, textOption, textsOption } from '../options.ts'
import { explainIssues } from './explain.ts'
import { travellingScript } from './travelling-script.ts'

/** Whether a command line of `tutti run` is about one command rather than job files. */
export function namesCommand({ options, rest }: Given): boolean {
  return rest.length > 0 || options.image !== undefined || options.driver !== undefined
}

/** The job for `tutti run … -- COMMAND`: run once and not tried again, unless it is to be a service. */
export async function commandJob(
  cli: Pick<Cli, 'random'>,
  { options, rest }: Pick<Given, 'options' | 'rest'>,
): Promise<JobSpec> {
  const image = textOption(options, 'image')
  const driver = textOption(options, 'driver') ?? (image === undefined ? undefined : 'container')
  if (driver !== 'process' && driver !== 'container')
    throw new Fault('invalid', 'say what the command runs in: --image IMAGE, or --driver process')
  if (driver === 'container' && image === undefined) throw new Fault('invalid', '--driver container needs --image')
  if (driver === 'process' && image !== undefined) throw new Fault('invalid', '--image goes with --driver container')
  if (driver === 'process' && rest.length === 0) throw new Fault('invalid', 'give the command after "--"')
  const name = textOption(options, 'name') ?? `run-${encodeId(cli.random.bytes(10)).slice(0, 8)}`
  const cpu = textOption(options, 'cpu')
  const memory = textOption(options, 'memory')
  const isService = flagOption(options, 'service')
  const [program = '', ...words] = rest
  const script = driver === 'process' ? await travellingScript(program) : undefined
  const command = script ? [script.to, ...words] : rest
  const input: JobInput = {
    name,
    type: isService ? 'service' : 'batch',
    constraints: textsOption(options, 'node').map((text) => (/^[a-z0-9-]+$/.test(text) ? `node == ${text}` : text)),
    ports: Object.fromEntries(textsOption(options, 'port').map(readPort)),
    ...(isService ? {} : { restart: { attempts: 0 }, reschedule: { attempts: 0 } }),
    tasks: {
      main: {
        driver,
        ...(image === undefined ? {} : { image }),
        ...(command.length === 0 ? {} : { command }),
        ...(script ? { templates: [script] } : {}),
        env: readPairs('--env', textsOption(options, 'env')),
        resources: { ...(cpu === undefined ? {} : { cpu }), ...(memory === undefined ? {} : { memory }) },
      },
    },
  }
  const parsed = JobSpec.safeParse(input)
  if (parsed.success) return parsed.data
  const [first] = explainIssues(parsed.error.issues, input)
  throw new Fault('invalid', first?.message ?? 'the command line makes no valid job')
}

/** `http` for a free port, `http=8080` for that one. */
function readPort(text: string): [string, 'dynamic' | number] {
  const [name = '', number] = text.split('=')
  if (number === undefined) return [name, 'dynamic']
  if (/^\d{1,5}$/.test(number)) return [name, Number(number)]
  throw new Fault('invalid', `--port needs a name, or name=number, not "${text}"`)
}
