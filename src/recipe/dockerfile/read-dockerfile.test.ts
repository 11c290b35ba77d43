import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '../../model/fault.ts'
import { expand } from '../expand.ts'
import { Recipe } from '../recipe.ts'
import { readDockerfile } from './read-dockerfile.ts'

const read = (text: string, buildArgs: Record<string, string> = {}) =>
  readDockerfile(text, { file: 'Dockerfile', buildArgs })
const stepsOf = (text: string, buildArgs?: Record<string, string>) =>
  read(text, buildArgs).recipe.steps.map(({ step }) => step)

/** `line:column message` of every mistake. */
function mistakesOf(text: string, buildArgs?: Record<string, string>): string[] {
  try {
    read(text, buildArgs)
  } catch (error) {
    assert.ok(error instanceof Fault, String(error))
    return error.places.map(({ line, column, message }) => `${line}:${column} ${message}`)
  }
  return []
}

test('a whole Dockerfile becomes the steps of a recipe', () => {
  const { recipe, notes } = read(`# syntax=docker/dockerfile:1
ARG VERSION=12
FROM --platform=linux/amd64 debian:\${VERSION} AS base
ENV LANG=C.UTF-8 GREETING="hello world" SLASH=a\\ b
ENV OLD all the rest "of it"
WORKDIR /app
RUN apt-get update && \\
    # what is needed
    apt-get install -y curl \\

    && true
RUN ["/bin/echo", "a b"]
COPY --chown=app:app --chmod=0750 src/ main.py ./
ADD ["my file.tar", "/data/"]
EXPOSE 80
USER app
ENTRYPOINT ["python3"]
CMD ["main.py", "--port=80"]
HEALTHCHECK --interval=5s CMD curl -f http://127.0.0.1/
`)
  assert.deepEqual(recipe.from, { image: 'debian:12' })
  assert.equal(recipe.arch, 'amd64')
  assert.deepEqual(
    recipe.steps.map(({ step }) => step),
    [
      { kind: 'env', values: { LANG: 'C.UTF-8', GREETING: 'hello world', SLASH: 'a b' } },
      { kind: 'env', values: { OLD: 'all the rest of it' } },
      { kind: 'workdir', path: '/app' },
      { kind: 'run', command: 'apt-get update &&     apt-get install -y curl     && true' },
      { kind: 'run', command: ['/bin/echo', 'a b'] },
      { kind: 'copy', sources: ['src/', 'main.py'], to: './', unpack: false, owner: 'app:app', mode: 0o750 },
      { kind: 'copy', sources: ['my file.tar'], to: '/data/', unpack: true },
      { kind: 'user', user: 'app' },
    ],
  )
  assert.deepEqual(
    recipe.steps.map(({ place }) => place),
    [4, 5, 6, 7, 12, 13, 14, 16].map((line) => `Dockerfile:${line}`),
  )
  assert.deepEqual(recipe.start, ['python3', 'main.py', '--port=80'])
  assert.deepEqual(recipe.ready, { command: 'curl -f http://127.0.0.1/', timeoutMs: 300_000 })
  assert.deepEqual(
    notes.map(({ line }) => line),
    [15, 19],
  )
  Recipe.parse(recipe)
})

test('variables are filled in where they are known, and kept for the node where they are not', () => {
  const [env, env2, workdir] = stepsOf(
    'FROM a\nARG X=1\nENV A=$X B=${X:+set} PATH=/opt:$PATH\nENV C=$A-$PATH\nWORKDIR /${C}x',
  )
  assert.deepEqual(env, { kind: 'env', values: { A: '1', B: 'set', PATH: '/opt:${PATH}' } })
  assert.deepEqual(env2, { kind: 'env', values: { C: '1-${PATH}' } })
  assert.deepEqual(workdir, { kind: 'workdir', path: '/${C}x' })
  assert.equal(
    expand('/opt:${PATH}', (name) => (name === 'PATH' ? '/bin' : undefined)),
    '/opt:/bin',
  )
})

test('quotes and escapes decide what is a variable', () => {
  const cases: Record<string, string> = {
    '"$X"': 'v',
    "'$X'": '$X',
    '\\$X': '$X',
    '"\\$X"': '$X',
    '${X}y': 'vy',
    '${Y:-d}': 'd',
    '${Y-d}': 'd',
    '${X:-d}': 'v',
    '${X:+d}': 'd',
    '${E:-d}': 'd',
    '${E-d}': '',
    '${E+d}': 'd',
    '${E:+d}': '',
    '${Y:-${X}z}': 'vz',
    '${Y:-"a b"}': 'a b',
    '${Y:-a\\}b}': 'a}b',
    'a"b"\'c\'': 'abc',
    $: '$',
    'C:\\\\x': 'C:\\x',
    '"a\\nb"': 'a\\nb',
  }
  for (const [text, expected] of Object.entries(cases)) {
    const step = stepsOf(`FROM a\nARG X=v\nARG E=""\nENV R=${text}`)[0]
    assert.ok(step?.kind === 'env')
    assert.equal(
      expand(step.values.R ?? '', () => undefined),
      expected,
      text,
    )
  }
})

test('build arguments come from the command line, from the file, or from before FROM, and only where declared', () => {
  const runArgs = (text: string, args?: Record<string, string>) => {
    const step = stepsOf(text, args).find(({ kind }) => kind === 'run')
    return step?.kind === 'run' ? step.args : undefined
  }
  assert.deepEqual(runArgs('FROM a\nARG X=1\nRUN true'), { X: '1' })
  assert.deepEqual(runArgs('FROM a\nARG X=1\nRUN true', { X: '2' }), { X: '2' })
  assert.deepEqual(runArgs('FROM a\nRUN true', { X: '2' }), undefined)
  assert.deepEqual(runArgs('FROM a\nARG X\nRUN true'), undefined)
  assert.deepEqual(runArgs('ARG X=1\nFROM a\nRUN true'), undefined)
  assert.deepEqual(runArgs('ARG X=1\nFROM a\nARG X\nRUN true'), { X: '1' })
  assert.deepEqual(runArgs('FROM a\nARG X=1\nENV X=env\nRUN true', { X: '2' }), undefined)
  assert.deepEqual(runArgs('FROM a\nRUN true', { HTTPS_PROXY: 'p' }), { HTTPS_PROXY: 'p' })
  assert.deepEqual(runArgs('FROM a\nARG TARGETARCH\nRUN true'), { TARGETARCH: '${TARGETARCH}' })
  assert.deepEqual(
    read('FROM a', { UNUSED: '1' }).notes.map(({ message }) => message),
    ['--build-arg UNUSED is declared by no ARG, and was not used'],
  )
})

test('the start command is put together as Docker does', () => {
  const start = (text: string) => read(`FROM a\n${text}`).recipe.start
  assert.equal(start(''), undefined)
  assert.deepEqual(start('CMD ["a","b"]'), { afterEntrypoint: ['a', 'b'] })
  assert.deepEqual(start('CMD a | b'), { afterEntrypoint: 'a | b' })
  assert.deepEqual(start('ENTRYPOINT ["e"]\nCMD ["a"]'), ['e', 'a'])
  assert.deepEqual(start('CMD ["a"]\nENTRYPOINT ["e"]'), ['e'])
  assert.deepEqual(start('ENTRYPOINT e x\nCMD ["a"]'), 'e x')
  assert.deepEqual(start('ENTRYPOINT ["e"]\nCMD a b'), ['e', '/bin/sh', '-c', 'a b'])
  assert.deepEqual(start('SHELL ["/bin/bash", "-c"]\nCMD a'), { afterEntrypoint: ['/bin/bash', '-c', 'a'] })
})

test('here-documents are scripts or go to the shell', () => {
  const commands = (text: string) => stepsOf(`FROM a\n${text}`).map((step) => step.kind === 'run' && step.command)
  assert.deepEqual(commands('RUN <<EOF\necho 1\n\n# two\necho 2\nEOF\nRUN true'), ['echo 1\n\n# two\necho 2', 'true'])
  assert.deepEqual(commands('RUN <<-EOF\n\techo 1\n\tEOF'), ['echo 1'])
  assert.deepEqual(commands('RUN cat <<A > /a && cat <<"B"\n1\nA\n$2\nB'), ['cat <<A > /a && cat <<"B"\n1\nA\n$2\nB'])
  assert.deepEqual(commands('RUN echo "<<EOF" $((1<<2))'), ['echo "<<EOF" $((1<<2))'])
  const [program] = commands('SHELL ["/bin/bash", "-c"]\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF')
  assert.match(String(program), /<<'END' .*\n#!\/usr\/bin\/env python3\nprint\(1\)\nEND\n/)
})

test('here-documents of COPY are files, with variables unless the name is in quotes', () => {
  const [, env, copy] = stepsOf(
    `FROM a\nWORKDIR /w\nENV V=1\nCOPY --chmod=755 <<one <<-"two" plain /d/\n'$V' \\$V "\${PATH}"\none\n\t\t$V\n\ttwo\nRUN true`,
  )
  assert.equal(env?.kind, 'env')
  assert.deepEqual(copy, {
    kind: 'copy',
    sources: ['plain'],
    inline: [
      { name: 'one', text: `'1' $$V "\${PATH}"\n` },
      { name: 'two', text: '$$V\n' },
    ],
    to: '/d/',
    unpack: false,
    mode: 0o755,
  })
})

test('only the stages that the target needs are built, and names and numbers lead to them', () => {
  const text = `ARG BASE=alpine
FROM golang AS Build
ARG X=1
ENV E=e
RUN make
FROM scratch AS unused
COPY --from=build /x /x
FROM \${BASE}:3 AS run
COPY --from=0 /bin/app /bin/
COPY --from=busybox:1 /bin/sh /bin/sh
CMD ["app"]
FROM run AS debug
COPY --from=build --chown=1:2 a b /c/
RUN $X
FROM build AS test
RUN make test
`
  const target = (name?: string) => readDockerfile(text, { file: 'Dockerfile', target: name }).recipe
  const shape = (name?: string) => {
    const { from, steps, stages = [] } = target(name)
    const kinds = (list: typeof steps) =>
      list.map(({ step }) => (step.kind === 'copy' ? `copy ${JSON.stringify(step.from)}` : step.kind)).join(', ')
    return [...stages, { name: '', from, steps }].map((each) => [
      each.name,
      'image' in each.from && each.from.image,
      kinds(each.steps),
    ])
  }
  assert.deepEqual(shape('run'), [
    ['build', 'golang', 'env, run'],
    ['', 'alpine:3', 'copy {"stage":0}, copy {"image":"busybox:1"}'],
  ])
  assert.deepEqual(shape('2'), shape('run'))
  assert.deepEqual(shape('debug'), [
    ['build', 'golang', 'env, run'],
    ['', 'alpine:3', 'copy {"stage":0}, copy {"image":"busybox:1"}, copy {"stage":0}, run'],
  ])
  assert.deepEqual(target('debug').start, { afterEntrypoint: ['app'] })
  assert.deepEqual(shape(), [['', 'golang', 'env, run, run']])
  assert.deepEqual(target('BUILD').stages, undefined)
  const run = target().steps.at(-1)?.step
  assert.deepEqual(run?.kind === 'run' && run.args, { X: '1' }, 'arguments are seen by stages that begin from one')
  for (const name of ['run', 'debug', undefined]) Recipe.parse(target(name))
  assert.throws(
    () => target('prod'),
    /Dockerfile:1:1: it has no stage "prod" to build; its stages are "build", "unused"/,
  )
  assert.deepEqual(shape('unused')[1], ['', 'scratch', 'copy {"stage":0}'])
})

test('a copy leaves files out, keeps directories and changes modes', () => {
  const flags = '--exclude=*.md --exclude=tmp --parents --link --chmod=u=rwX,go=rX'
  assert.deepEqual(stepsOf(`FROM a\nCOPY ${flags} a/b /c/`), [
    {
      ...{ kind: 'copy', sources: ['a/b'], to: '/c/', unpack: false },
      ...{ mode: 'u=rwX,go=rX', exclude: ['*.md', 'tmp'], parents: true },
    },
  ])
  assert.match(
    mistakesOf('FROM a\nCOPY --chmod=u=q a b')[0] ?? '',
    /^2:6 --chmod needs a mode such as 755 or u=rwX,go=rX/,
  )
  assert.match(mistakesOf('FROM a\nADD --parents a b')[0] ?? '', /^2:5 ADD has no flag --parents here/)
})

test('mounts of RUN are read with their defaults, from stages and images too', () => {
  const flags = [
    'target=/ctx',
    'type=bind,from=tools,src=/bin,dst=/b,rw',
    'type=cache,target=/c,sharing=locked,mode=0700',
    'type=tmpfs,target=/t,size=64m',
    'type=secret,id=key',
    'type=secret,id=key,env=KEY,required',
  ]
  const { recipe } = read(
    `FROM a AS other\nFROM a AS tools\nFROM b\nRUN ${flags.map((each) => `--mount=${each}`).join(' ')} x`,
  )
  const [step] = recipe.steps.map((each) => each.step)
  const nobody = { uid: 0, gid: 0 }
  assert.deepEqual(step, {
    kind: 'run',
    command: 'x',
    mounts: [
      { kind: 'bind', to: '/ctx', source: '', writable: false },
      { kind: 'bind', to: '/b', source: '/bin', writable: true, from: { stage: 0 } },
      { kind: 'cache', to: '/c', id: '/c', readOnly: false, ...nobody, mode: 0o700 },
      { kind: 'tmpfs', to: '/t', bytes: 64 * 2 ** 20 },
      { kind: 'secret', id: 'key', to: '/run/secrets/key', required: false, ...nobody },
      { kind: 'secret', id: 'key', env: 'KEY', required: true, ...nobody },
    ],
  })
  assert.deepEqual(
    recipe.stages?.map(({ name }) => name),
    ['tools'],
  )
})

test('what ONBUILD keeps happens in stages that begin from the stage, and nowhere else', () => {
  const text = 'FROM a AS base\nONBUILD ENV A=1\nONBUILD RUN one\nRUN zero\nFROM base AS child\nRUN $A\nFROM child'
  assert.deepEqual(
    stepsOf(text).map((step) => (step.kind === 'run' ? step.command : step.kind)),
    ['zero', 'env', 'one', '$A'],
  )
})

test('ONBUILD of the stage that becomes the template is for nobody, which a note says', () => {
  const { notes } = read('FROM a AS base\nONBUILD RUN one\nFROM base\nONBUILD RUN two\n')
  assert.deepEqual(
    notes.map(({ line }) => line),
    [4],
  )
  assert.match(notes[0]?.message ?? '', /ONBUILD changes nothing here/)
})

test('a name that is nearly that of a stage is an image, with a note', () => {
  const { recipe, notes } = read('FROM a AS build\nFROM b\nCOPY --from=biuld x /x')
  assert.equal(recipe.stages, undefined)
  assert.match(
    notes[0]?.message ?? '',
    /"biuld" is no stage of this file, so it means an image; did you mean "build"\?/,
  )
  assert.deepEqual(read('FROM node AS node\nFROM node\n').notes, [])
})

test('every mistake has a line and a column, and says what would be right', () => {
  const cases: [text: string, ...mistakes: (string | RegExp)[]][] = [
    ['', /^1:1 it has no FROM/],
    ['RUN x\nFROM a', /^1:1 RUN stands before FROM/],
    ['FROM a\nRNU x', '2:1 "RNU" is not an instruction; did you mean RUN?'],
    ['FROM a\n  CPOY a b', '2:3 "CPOY" is not an instruction; did you mean COPY?'],
    ['FROM a AS 1x', /^1:11 "1x" cannot name a stage/],
    ['FROM a AS x\nCOPY --from=x /a /b', /^2:6 --from=x is no stage above this one/],
    ['FROM a\nCOPY --from=1 /a /b', /^2:6 --from=1 is no stage above this one/],
    ['FROM a\nCOPY --from=x /a /b\nFROM b AS x', /^2:6 stage "x" stands further down/],
    ['FROM a\nCOPY --from=$X /a /b', /^2:6 --from needs a stage or an image, and "\$X" is not known here/],
    ['FROM a\nADD --from=x /a /b', /^2:5 ADD has no flag --from here/],
    ['FROM --platform=linux/arm64 a AS x\nFROM --platform=linux/amd64 b\nCOPY --from=x a b', /^1:1 its stages are for/],
    ['FROM a\nCOPY --from=scratch a b', /^2:6 there is nothing in "scratch" to copy/],
    ['FROM a\nONBUILD FROM b', /^2:9 FROM cannot follow ONBUILD/],
    ['FROM a AS b\nONBUILD CPOY a b\nFROM b', /^2:9 "CPOY" is not an instruction/],
    ['FROM a\nADD --checksum=sha256:1 https://example.org/x /x', /^2:5 --checksum needs sha256:/],
    [`FROM a\nADD --checksum=sha256:${'a'.repeat(64)} x /x`, /^2:5 --checksum is of one URL/],
    ['FROM a\nCOPY https://example.org/x /x', /^2:6 COPY takes no URL, and ADD does/],
    ['FROM a\nADD https://example.org/x.git /x', /^2:5 ADD takes no git repository here/],
    ['FROM a\nADD ftp://example.org/x /x', /^2:5 ADD fetches http and https/],
    ['FROM a\nCOPY <<EOF\nEOF', /^2:1 COPY needs at least/],
    ['FROM a\nCOPY x <<EOF\nEOF', /^2:8 COPY lacks the target/],
    ['FROM a\nCOPY <<EOF /x\na\n  ${b\nEOF', /^4:3 "\$\{b" is not closed/],
    ['FROM a\nCOPY a', /^2:1 COPY needs at least a source and a target/],
    ['FROM a\nCOPY a b c', /^2:10 with several sources the target is a directory/],
    ['FROM a\nCOPY --chmod=rwx a b', /^2:6 --chmod needs a mode/],
    ['FROM a\nENV A', /^2:5 "A" has no value/],
    ['FROM a\nENV A=1 B', /^2:9 "B" has no value/],
    ['FROM a\nENV A="x', /^2:7 this quote " is not closed/],
    ['FROM a\nENV A=${x', /^2:7 "\$\{x" is not closed/],
    ['FROM a\nENV A=1 \\\n  B=${x#y}', /^3:5 "\$\{x#…\}" is not supported/],
    ['FROM a\nARG 1x', /^2:5 "1x" is not the name of a variable/],
    ['FROM a\nRUN', /^2:1 RUN lacks a command/],
    ['FROM a\nRUN --mount=type=ssh cat', /^2:5 --mount: type=ssh is not supported/],
    ['FROM a\nRUN --mount=type=tmpfs cat', /^2:5 --mount: type=tmpfs needs a "target"/],
    ['FROM a\nRUN --mount=type=cache,target=/a,from=b cat', /^2:5 --mount: a cache begins empty here/],
    ['FROM a\nRUN --mount=type=bind,target=/a,id=b cat', /^2:5 --mount: type=bind has no "id"; it has /],
    ['FROM a\nRUN --mount=type=bind,target=/a,from=1 cat', /^2:5 --from=1 is no stage above/],
    ['FROM a\nRUN <<EOF\nx', /^2:5 the here-document <<EOF has no end/],
    ['FROM --platform=windows/amd64 a', /^1:6 platform "windows\/amd64" cannot be built/],
    ['FROM debian:$V', /^1:6 "debian:\$V" names no image/],
    ['FROM $V', /^1:6 "\$V" names no image/],
    ['FROM a b', /^1:8 after the image only "AS name"/],
    ['# escape=`\nFROM a', /^1:1 "escape=`" is for images of Windows/],
    ['FROM a\nUSER', /^2:1 USER lacks a user/],
    ['FROM a\nHEALTHCHECK curl', /^2:13 HEALTHCHECK is followed by CMD/],
    ['FROM a\nSHELL bash', /^2:1 SHELL needs a list/],
    ['FROM a\nFOO\nBAR\nRUN', /^2:1/, /^3:1/, /^4:1/],
    ['FROM a\nENV A="${x:?it is needed}"', ''],
  ]
  for (const [text, ...expected] of cases) {
    const found = mistakesOf(text)
    for (const [at, pattern] of expected.entries()) {
      const said = found[at] ?? ''
      if (typeof pattern === 'string') assert.equal(said, pattern, text)
      else assert.match(said, pattern, text)
    }
  }
})

test('any text is read or refused with places in it', () => {
  const line = fc.oneof(
    fc.constantFrom('FROM a', 'RUN <<X', 'X', 'RUN a \\', '# x', '', 'ENV A=${B:-"c', 'COPY ["a", "b"]', 'ARG X=$Y'),
    fc
      .tuple(
        fc.constantFrom('RUN', 'ENV', 'COPY', 'ARG', 'FROM', 'ADD', 'USER', 'CMD', 'SHELL', 'HEALTHCHECK'),
        fc.string(),
      )
      .map((words) => words.join(' ')),
    fc.string({ unit: 'binary' }),
    fc
      .string({ unit: fc.constantFrom('$', '{', '}', ':', '-', '"', "'", '\\', ' ', 'A', '=', '<', '\t') })
      .map((text) => `ENV A=${text}`),
  )
  fc.assert(
    fc.property(fc.array(line, { maxLength: 12 }), fc.boolean(), (lines, begun) => {
      const text = (begun ? ['FROM a', ...lines] : lines).join('\n')
      try {
        Recipe.parse(read(text, { X: '1' }).recipe)
      } catch (error) {
        assert.ok(error instanceof Fault, String(error))
        assert.ok(error.places.length > 0)
        const rows = text.split('\n')
        for (const { line: row = 0, column = 0 } of error.places) {
          assert.ok(row >= 1 && row <= rows.length, `line ${row} of ${rows.length}`)
          assert.ok(column >= 1 && column <= (rows[row - 1]?.length ?? 0) + 2, `column ${column}`)
        }
      }
    }),
    { numRuns: 500 },
  )
})

test('a variable in text survives writing and reading it', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('a', '$', '}', '{', '\\', '"', ':', '-') }), (value) => {
      const [step] = stepsOf(`FROM a\nARG V\nENV R=$V S="\${U:-$V}"`, { V: value })
      assert.ok(step?.kind === 'env')
      assert.equal(
        expand(step.values.R ?? '', () => undefined),
        value,
      )
      assert.equal(
        expand(step.values.S ?? '', () => undefined),
        value,
      )
    }),
  )
})

test('brackets that are no list are a line for the shell, with a note', () => {
  for (const text of ["CMD ['x', 'y']", 'ENTRYPOINT ["a", "b"', 'RUN ["x", 1]', 'CMD [nginx, -g]'])
    assert.match(read(`FROM a\n${text}`).notes[0]?.message ?? '', /a line for the shell/, text)
  for (const text of ['RUN [ -e x ] && y', 'RUN [[ $A = b ]]', 'CMD ["x"]'])
    assert.deepEqual(read(`FROM a\n${text}`).notes, [], text)
})
