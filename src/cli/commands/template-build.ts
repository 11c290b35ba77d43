import { stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { tuttiOf } from '../../client/connect.ts'
import type { PublicBuild } from '../../contract/build.ts'
import { Fault } from '../../model/fault.ts'
import { formatSize, MiB, parseSize } from '../../model/quantity.ts'
import { packContext } from '../../recipe/context/pack-context.ts'
import { type Recipe, stagesOf } from '../../recipe/recipe.ts'
import type { Cli, Given } from '../cli.ts'
import { countOption, flagOption, readPairs, readSecretFile, textOption, textsOption } from '../options.ts'
import { buildLine } from '../output/build-line.ts'
import { print } from '../output/print.ts'
import { progress } from '../output/progress.ts'
import { counted } from '../output/text.ts'
import { nameAndTag } from '../sandbox-options.ts'
import { readBuildSecrets } from '../spec/build-secrets.ts'
import { imageRecipe, type ReadTemplate, readTemplateFile } from '../spec/read-template.ts'

type Options = Record<string, unknown>

/** `tutti template build`: its steps on standard error as they go, and the id of the build on standard output. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const read = await readRecipe(cli, args[0], options)
  const { template, tag } = nameAndTag(nameOf(read, args[0], options))
  const recipe = withOptions(read.recipe, options)
  const steps = stagesOf(recipe).flatMap((stage) => stage.steps)
  const context = await packContext(read.context, steps, {
    ...(read.ignoreFile === undefined ? {} : { ignoreFile: read.ignoreFile }),
    whole: recipe.wholeContext,
  })
  const tags = [...new Set([...(tag === undefined ? [] : [tag]), ...textsOption(options, 'tag'), ...read.tags])]
  const node = textOption(options, 'node')
  const credentials = await registryCredentials(cli, recipe, options)
  const secrets = await readBuildSecrets(cli, textsOption(options, 'secret'))
  const body = {
    recipe,
    tags: tags.length === 0 ? ['latest'] : tags,
    aliases: [...new Set([...read.aliases, ...textsOption(options, 'alias')])],
    noCache: options.cache === false,
    ...(node === undefined ? {} : { node }),
    ...(credentials === undefined ? {} : { credentials }),
    ...(secrets === undefined ? {} : { secrets }),
  }
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  if (context) cli.stderr.write(`sending ${counted(context.files, 'file')}, ${formatSize(context.bytes)}\n`)
  if (flagOption(options, 'detach')) {
    const { build } = await client.buildTemplate({ template, body: { ...body, context: context !== undefined } })
    if (context) await client.sendBuildContext({ build: build.id }, context.stream, { signal })
    return show(cli, options, build)
  }
  using shown = progress(cli, { quiet: true })
  const started = cli.clock.monotonic()
  const sayItGoesOn =
    ({ id }: { id: string }) =>
    () => {
      shown[Symbol.dispose]()
      cli.stderr.write(
        `the build goes on: "tutti template logs -f ${id}" follows it, "tutti template delete ${id}" calls it off\n`,
      )
    }
  const build = await tuttiOf(client).templates.build(template, {
    ...body,
    context: context?.stream,
    signal,
    onBegin: (begun) => {
      shown.show(`building "${template}" as ${begun.id}…`)
      signal.addEventListener('abort', sayItGoesOn(begun), { once: true })
    },
    onLog: (line) => {
      shown[Symbol.dispose]()
      // It is said again as what the command failed of.
      if (line.level === 'error') return
      cli.stderr.write(buildLine(cli.stderr, line))
      if (line.step > 0) shown.show(`step ${line.step} of ${steps.length}…`)
    },
  })
  shown[Symbol.dispose]()
  const seconds = ((cli.clock.monotonic() - started) / 1000).toFixed(1)
  cli.stderr.write(`template "${template}" is built after ${seconds} s\n`)
  return show(cli, options, build)
}

/** The password comes from a file, standard input or the environment: whatever is in an argument, others can read. */
async function registryCredentials(cli: Cli, recipe: Recipe, options: Options) {
  const username = textOption(options, 'registryUser')
  const file = textOption(options, 'registryPasswordFile')
  if (username === undefined) {
    if (file === undefined) return undefined
    throw new Fault('invalid', '--registry-password-file needs --registry-user')
  }
  if ('template' in recipe.from)
    throw new Fault('invalid', '--registry-user is for the registry of an image, and this begins from a template')
  const password = file === undefined ? cli.env['TUTTI_REGISTRY_PASSWORD'] : await readSecretFile(file, cli)
  if (password) return { username, password }
  const where = file === undefined ? 'TUTTI_REGISTRY_PASSWORD is not set' : `there is nothing in ${file}`
  throw new Fault(
    'invalid',
    `the password of registry user "${username}" is missing: ${where}; "--registry-password-file -" reads standard input`,
  )
}

async function show(cli: Cli, options: Options, build: PublicBuild): Promise<undefined> {
  await print(cli, options.output, { value: build, names: () => [build.id], table: () => `${build.id}\n` })
  return undefined
}

async function readRecipe(cli: Cli, given: string | undefined, options: Options): Promise<ReadTemplate> {
  const [image, from] = [textOption(options, 'image'), textOption(options, 'from')]
  if ([given, image].filter((each) => each !== undefined).length > 1)
    throw new Fault('invalid', 'either a recipe, or --image')
  if (given === undefined && textOption(options, 'target') !== undefined)
    throw new Fault('invalid', '--target names a stage of a Dockerfile; say which Dockerfile')
  if (image !== undefined && from !== undefined) throw new Fault('invalid', 'either --image, or --from')
  const bare = { name: undefined, aliases: [], tags: [], context: '.', ignoreFile: undefined, notes: [] }
  if (image !== undefined) return { ...bare, recipe: imageRecipe(image) }
  if (given === undefined && from !== undefined) {
    return { ...bare, recipe: { ...imageRecipe(from), from: { template: from } } }
  }
  if (given === undefined)
    throw new Fault('invalid', 'say what to build: a template.yaml, a Dockerfile, a directory with one, or --image')
  const read = await readTemplateFile(await findRecipe(given), {
    buildArgs: readPairs('--build-arg', textsOption(options, 'buildArg')),
    target: textOption(options, 'target'),
  })
  for (const { file, line, message } of read.notes) {
    const where = [file, line].filter((part) => part !== undefined).join(':')
    cli.stderr.write(`${where === '' ? '' : `${where}: `}${message}\n`)
  }
  return read
}

/** The file itself, or what a directory has by these names. */
async function findRecipe(given: string): Promise<string> {
  const found = await stat(given).catch((error: NodeJS.ErrnoException) => {
    const why = error.code === 'ENOENT' ? 'there is no such file' : (error.code ?? error.message)
    throw new Fault('invalid', `cannot read ${given}: ${why}`)
  })
  if (!found.isDirectory()) return given
  for (const name of ['template.yaml', 'template.yml', 'template.json', 'Dockerfile']) {
    const path = join(given, name)
    if (await stat(path).catch(() => undefined)) return path
  }
  throw new Fault('invalid', `${given} has neither a template.yaml nor a Dockerfile`)
}

function nameOf({ name }: ReadTemplate, given: string | undefined, options: Options): string {
  const said = textOption(options, 'name') ?? name
  if (said !== undefined) return said
  if (given === undefined) throw new Fault('invalid', 'say what to call it with --name')
  const path = resolve(given)
  const guess = basename(/\.(ya?ml|json)$|dockerfile/i.test(basename(path)) ? resolve(path, '..') : path)
  if (/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(guess)) return guess
  throw new Fault('invalid', `"${guess}" is no name for a template; say one with --name`)
}

function withOptions(recipe: Recipe, options: Options): Recipe {
  const cpus = countOption(options, 'cpus')
  const memoryMiB = mebibytes(options, 'memory', { most: '1 TiB' })
  const diskMiB = mebibytes(options, 'disk', { most: '16 TiB' })
  const from = textOption(options, 'from')
  const buildArgs = readPairs('--build-arg', textsOption(options, 'buildArg'))
  return {
    ...recipe,
    ...(Object.keys(buildArgs).length === 0 ? {} : { buildArgs }),
    ...(flagOption(options, 'wholeContext') ? { wholeContext: true } : {}),
    ...(from === undefined ? {} : { from: { template: from } }),
    ...(cpus === undefined ? {} : { cpus }),
    ...(memoryMiB === undefined ? {} : { memoryMiB }),
    ...(diskMiB === undefined ? {} : { diskMiB }),
  }
}

function mebibytes(options: Options, name: string, { most }: { most: string }): number | undefined {
  const text = textOption(options, name)
  if (text === undefined) return undefined
  const bytes = parseSize(text)
  if (bytes !== undefined && (bytes < 64 * MiB || bytes > (parseSize(most) ?? 0)))
    throw new Fault('invalid', `--${name} must be between 64 MiB and ${most}, not "${text}"`)
  if (bytes !== undefined) return Math.ceil(bytes / MiB)
  throw new Fault('invalid', `--${name} needs a size such as 512MiB, not "${text}"`)
}
