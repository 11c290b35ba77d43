import { readFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { Fault, type FaultPlace } from '../../model/fault.ts'
import { maxDockerfileBytes, type ReadDockerfile, readDockerfile } from '../../recipe/dockerfile/read-dockerfile.ts'
import { type PlacedStep, Recipe, type Step } from '../../recipe/recipe.ts'
import { explainIssues, type Subject } from './explain.ts'
import { SpecFault } from './spec-fault.ts'
import { TemplateFile, type TemplateStep } from './template-file.ts'
import { byPlace, maxMistakes, readYaml } from './yaml-text.ts'

export interface ReadTemplate {
  recipe: Recipe
  /** What the file says the template is called. */
  name: string | undefined
  aliases: string[]
  tags: string[]
  /** Directory of the files that steps copy. */
  context: string
  /** Looked for before the context's own .dockerignore. */
  ignoreFile: string | undefined
  /** What was accepted and changes nothing, for people. */
  notes: FaultPlace[]
}

export interface TemplateOptions {
  /** `--build-arg`. */
  buildArgs?: Readonly<Record<string, string>>
  /** `--target`. */
  target?: string | undefined
}

/** A template's recipe from a file: `template.yaml`, or else a Dockerfile. Throws a SpecFault with every mistake's place. */
export async function readTemplateFile(file: string, options: TemplateOptions = {}): Promise<ReadTemplate> {
  const text = await read(file)
  if (/\.(ya?ml|json)$/i.test(file)) return readTemplateText(text, file, options)
  const { recipe, notes } = dockerfile(text, file, options)
  const shared = { name: undefined, aliases: [], tags: [], context: dirname(resolve(file)), notes }
  return { ...shared, recipe: Recipe.parse(recipe), ignoreFile: `${resolve(file)}.dockerignore` }
}

/** For `--image`: nothing but an image. */
export function imageRecipe(image: string): Recipe {
  return Recipe.parse({ from: { image }, steps: [] })
}

const about: Subject = {
  schema: TemplateFile,
  name: 'a template',
  synonyms: {
    id: 'name',
    base: 'from',
    baseImage: 'from',
    fromImage: 'from',
    fromTemplate: 'template',
    start_cmd: 'start',
    startCommand: 'start',
    cmd: 'start',
    entrypoint: 'start',
    ready_cmd: 'ready',
    readyCommand: 'ready',
    healthcheck: 'ready',
    cpu: 'cpus',
    cpuCount: 'cpus',
    cpu_count: 'cpus',
    vcpu: 'cpus',
    ram: 'memory',
    memory_mb: 'memory',
    memoryMB: 'memory',
    diskSize: 'disk',
    command: 'run',
    cwd: 'workdir',
    environment: 'env',
    chown: 'owner',
    chmod: 'mode',
    source: 'from',
    target: 'to',
    platform: 'arch',
  },
}

/** The same of a text; `file` says where it lies. */
export async function readTemplateText(
  text: string,
  file: string,
  options: TemplateOptions = {},
): Promise<ReadTemplate> {
  const { documents, placeOf, fail } = readYaml(text, file, 'template')
  const [document, second] = documents
  const place = (path: PropertyKey[], message: string, at: 'key' | 'value' | 'parent' = 'value') =>
    document ? placeOf(document, [], { path, at, message }) : { file, message }
  if (second) throw fail([placeOf(second, [], { path: [], at: 'value', message: 'a file holds one template' })])
  const value: unknown = document?.toJS({ maxAliasCount: 100 })
  if (value === null || value === undefined || typeof value !== 'object' || Array.isArray(value))
    throw fail([place([], 'a template is a mapping that begins with "from:", such as from: debian:12')])
  const parsed = TemplateFile.safeParse(value)
  if (!parsed.success) {
    const explained = explainIssues(parsed.error.issues, value, about).slice(0, maxMistakes)
    throw fail(explained.map((each) => place(each.path, each.message, each.at)).sort(byPlace))
  }
  const template = parsed.data
  const sources = (['from', 'image', 'template', 'dockerfile'] as const).filter((key) => template[key] !== undefined)
  if (sources.length === 0)
    throw fail([
      place([], 'it does not say what to begin from; add "from:" with an image, such as debian:12', 'parent'),
    ])
  const [, another] = sources
  if (another !== undefined)
    throw fail([place([another], `"${sources[0]}" says already what to begin from; keep one of the two`, 'key')])

  const folder = dirname(resolve(file))
  const given = template.dockerfile === undefined ? undefined : join(folder, template.dockerfile)
  const target = options.target ?? template.target
  if (given === undefined && target !== undefined)
    throw fail([place(['target'], 'a target is a stage of a Dockerfile, and this template has no "dockerfile"', 'key')])
  const base = given === undefined ? undefined : dockerfile(await read(given), given, { ...options, target })
  const steps = template.steps.map((step, at): PlacedStep => {
    const { line } = place(['steps', at], '')
    return { step: toStep(step), place: `${file}:${line ?? 1}`.slice(-200), text: describe(step) }
  })
  const image = template.from ?? template.image
  const { ready } = template
  const recipe = {
    ...base?.recipe,
    ...(image === undefined ? {} : { from: { image } }),
    ...(template.template === undefined ? {} : { from: { template: template.template } }),
    steps: [...(base?.recipe.steps ?? []), ...steps],
    ...only({ arch: template.arch, start: template.start, cpus: template.cpus }),
    ...only({ memoryMiB: inMiB(template.memory), diskMiB: inMiB(template.disk) }),
    ...(ready === undefined
      ? {}
      : {
          ready:
            typeof ready === 'string'
              ? { command: ready }
              : { command: ready.command, ...only({ timeoutMs: ready.timeout }) },
        }),
  }
  const checked = Recipe.safeParse(recipe)
  if (!checked.success) throw fail(checked.error.issues.map((issue) => limitPlace(issue.path, issue.message, place)))
  return {
    recipe: checked.data,
    name: template.name,
    aliases: template.aliases,
    tags: template.tags,
    context: template.context === undefined ? folder : resolve(folder, template.context),
    ignoreFile: given === undefined ? undefined : `${given}.dockerignore`,
    notes: base?.notes ?? [],
  }
}

/** Limits of the recipe, under the names that the file has for them. */
function limitPlace(
  path: PropertyKey[],
  message: string,
  place: (path: PropertyKey[], message: string) => FaultPlace,
): FaultPlace {
  const names: Record<string, string> = { memoryMiB: 'memory', diskMiB: 'disk', timeoutMs: 'timeout' }
  const key = String(path.at(-1) ?? '')
  const own = path.map((step) => names[String(step)] ?? step)
  const bounds: Record<string, string> = {
    memoryMiB: '"memory" must be between 64 MiB and 1 TiB',
    diskMiB: '"disk" must be between 64 MiB and 16 TiB',
    timeoutMs: '"timeout" must be between 1s and 1h',
  }
  return place(own, bounds[key] ?? message)
}

function toStep(step: TemplateStep): Step {
  if (step.run !== undefined) return { kind: 'run', command: step.run }
  if (step.env !== undefined) return { kind: 'env', values: step.env }
  if (step.workdir !== undefined) return { kind: 'workdir', path: step.workdir }
  if (step.user !== undefined) return { kind: 'user', user: step.user }
  const copy = step.copy ?? step.add
  if (copy === undefined) throw new Error('a step without anything was let through')
  const {
    from,
    to,
    ...settings
  }: { from: string | string[]; to: string; owner?: string | undefined; mode?: number | undefined } = copy
  const sources = typeof from === 'string' ? [from] : from
  return { kind: 'copy', sources, to, unpack: step.add !== undefined, ...only(settings) }
}

function describe(step: TemplateStep): string {
  const made = toStep(step)
  const text =
    made.kind === 'run'
      ? `run ${typeof made.command === 'string' ? made.command : made.command.join(' ')}`
      : made.kind === 'copy'
        ? `${made.unpack ? 'add' : 'copy'} ${made.sources.join(' ')} ${made.to}`
        : made.kind === 'env'
          ? `env ${Object.keys(made.values).join(' ')}`
          : `${made.kind} ${made.kind === 'user' ? made.user : made.path}`
  return text.replace(/\s+/g, ' ').slice(0, 2000)
}

function dockerfile(text: string, file: string, { buildArgs = {}, target }: TemplateOptions): ReadDockerfile {
  try {
    return readDockerfile(text, { file: basename(file) === file ? file : shortName(file), buildArgs, target })
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    throw new SpecFault(error.places, new Map([[shortName(file), text]]))
  }
}

/** As people wrote it, where that is short. */
function shortName(file: string): string {
  const below = file.startsWith(`${process.cwd()}/`) ? file.slice(process.cwd().length + 1) : file
  return below.replace(/^\.\//, '')
}

async function read(file: string): Promise<string> {
  try {
    const bytes = await readFile(file)
    if (bytes.length > maxDockerfileBytes)
      throw new Fault('invalid', `cannot read ${file}: it is over ${maxDockerfileBytes / 1024} KiB`)
    return bytes.toString('utf8')
  } catch (error) {
    if (error instanceof Fault) throw error
    const { code = '' } = error as NodeJS.ErrnoException
    const reasons: Record<string, string> = {
      ENOENT: 'there is no such file',
      EACCES: 'reading it is not allowed',
      EISDIR: 'it is a directory',
    }
    throw new Fault('invalid', `cannot read ${file}: ${reasons[code] ?? (error as Error).message}`)
  }
}

function inMiB(bytes: number | undefined): number | undefined {
  return bytes === undefined ? undefined : Math.ceil(bytes / 2 ** 20)
}

/** Without what is not given. */
function only<T extends Record<string, unknown>>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}
