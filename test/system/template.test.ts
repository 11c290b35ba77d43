import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chown, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { openTestBuilder, type TestBuilder } from '../../src/build/testing.ts'
import { lackingAgent } from '../../src/guest/channel/testing.ts'
import { readDockerfile } from '../../src/recipe/dockerfile/read-dockerfile.ts'
import { lackingForMachines } from '../fixtures/machines.ts'
import { lacking, makeImage, registryUser, startRegistry } from '../fixtures/registry.ts'

const execute = promisify(execFile)
const reason = lacking(['mkfs.ext4']) ?? (await lackingForMachines()) ?? lackingAgent()

const dockerfile = `FROM anything
ARG SECRET
ENV GREETING=hello PATH=/opt/bin:$PATH
RUN echo "$GREETING $FROM_IMAGE" > /out && echo "made by step" && test -n "$SECRET"
WORKDIR /srv/app
COPY --chown=guest app/ ./
USER guest
RUN test "$(id -un):$(pwd)" = guest:/srv/app && test -O main.sh && cat main.sh > /dev/null
CMD ["sh", "main.sh"]
HEALTHCHECK CMD test -e /tmp/ready
`

/** Every way of bringing files that are not of the context; the last stage looks at what has come. */
const stages = (url: string, checksum: string) => `FROM anything AS files
RUN mkdir -p /out/deep && echo made > /out/made && ln /out/made /out/deep/same && ln -s made /out/link && ln -s /out /ref
RUN chown 1234:77 /out/made /out/deep && chmod 4750 /out/made && chmod 700 /out/deep
FROM anything AS unneeded
RUN exit 1
FROM files AS more
RUN echo more > /out/more
FROM files AS bare
RUN rm /bin/tar
FROM anything
COPY --from=files /out /copied
COPY --from=bare /out /bare
COPY --from=more --chown=guest --chmod=640 /ref/mo* /ref/made /chowned/
COPY --from=IMAGE /etc/pass* /from-image/
COPY --from=files --parents --exclude=made --chmod=u=rwX,go= /out/./deep /out/made /out/link /parents/
COPY --chmod=755 <<one <<-'two' /texts/
\\$x "$PATH"
one
	$x
	two
ADD ${url}/first%20file?secret=1 /added/
ADD --checksum=sha256:${checksum} --chown=guest ${url}/moved /added/second
RUN <<EOF
#!/bin/sh -ex
cd /copied
test "$(stat -c '%u:%g:%a' . made deep | tr '\n' ' ')" = "0:0:755 1234:77:4750 1234:77:700 "
test "$(stat -c '%u:%g:%a' /bare/made /bare/deep | tr '\n' ' ')" = "1234:77:4750 1234:77:700 "
test "$(readlink /bare/link):$(cat /bare/deep/same)" = made:made
test "$(readlink link):$(stat -c %i made)" = "made:$(stat -c %i deep/same)"
test "$(stat -c '%u:%g:%a' /chowned/made /chowned/more | tr '\n' ' ')" = "1234:1234:640 1234:1234:640 "
grep guest /from-image/passwd
test "$(find /parents | sort | tr '\n' ' ')" = "/parents /parents/deep /parents/deep/same /parents/out /parents/out/link "
test "$(stat -c %a /parents/deep)" = 700
test "$(stat -c '%u:%a' /texts/one)" = 0:755
printf '$x "%s"\n' "$PATH" | cmp - /texts/one
printf '$x\n' | cmp - /texts/two
test "$(stat -c '%u:%a' '/added/first file' /added/second | tr '\n' ' ')" = "0:600 1234:600 "
test "$(cat /added/*)" = "onetwo"
test ! -e /ref
EOF
`

describe('templates built in real machines', { skip: reason ?? false }, () => {
  let builder: TestBuilder
  let from: { image: string }
  let context: string
  before(async () => {
    builder = await openTestBuilder()
    context = join(builder.directory, 'context')
    await mkdir(join(context, 'app'), { recursive: true })
    await mkdir(join(builder.directory, 'image'))
    await writeFile(join(context, 'app/main.sh'), 'echo started; touch /tmp/ready; exec sleep 1000\n')
    const layout = await makeImage(join(builder.directory, 'image'), { env: { FROM_IMAGE: 'image' } })
    from = { image: `oci:${layout}:image` }
  })
  after(() => builder?.[Symbol.asyncDispose]())

  const read = (text: string) => ({
    ...readDockerfile(text, { file: 'Dockerfile', buildArgs: { SECRET: 'xyzzy-secret' } }).recipe,
    from,
  })
  /** Nothing is open at the block server, and no directory is left. */
  const leavesNothing = async () => {
    const { disks, memories, captures } = await builder.parts.blocks.ask(
      'list',
      {},
      { signal: AbortSignal.timeout(10_000) },
    )
    assert.deepEqual([disks, captures, memories.flatMap(({ holders }) => holders)], [[], [], []])
    assert.deepEqual(await readdir(builder.parts.directory), [])
  }

  test('a Dockerfile becomes a snapshot of a machine that is ready, and the second time from layers', async () => {
    const { manifest, log } = await builder.build(read(dockerfile), { context, template: 'web' })
    const messages = log.map(({ message }) => message)
    assert.ok(
      log.some(({ level, message, step }) => level === 'output' && message === 'made by step' && step === '2/6'),
    )
    assert.ok(!messages.some((message) => message.includes('xyzzy-secret')), 'a build argument is in the log')
    assert.ok(!messages.some((message) => message.startsWith('CACHED')))
    assert.equal(manifest.reason, 'template')
    assert.equal(manifest.defaults.user, 'guest')
    assert.equal(manifest.defaults.cwd, '/srv/app')
    assert.equal(manifest.defaults.env['GREETING'], 'hello')
    assert.equal(manifest.defaults.env['FROM_IMAGE'], 'image')
    assert.match(manifest.defaults.env['PATH'] ?? '', /^\/opt\/bin:\/usr\/local\/sbin:/)
    assert.equal(manifest.defaults.env['SECRET'], undefined)
    assert.ok((manifest.snapshot?.prefetch.length ?? 0) > 10)
    assert.equal(await builder.content.reference(`build/${manifest.id}`), manifest.id)
    await leavesNothing()

    const again = await builder.build(read(dockerfile), { context, template: 'web' })
    const cached = again.log.filter(({ message }) => message.startsWith('CACHED'))
    assert.equal(cached.length, 7, 'the image and six steps')
    assert.notEqual(again.manifest.id, manifest.id)
    await leavesNothing()
  })

  test('an image in a private registry takes credentials, and none are left anywhere', async () => {
    await using registry = await startRegistry({ access: 'private' })
    const image = await registry.push('lib/secret:1')
    const recipe = { from: { image } }
    await assert.rejects(builder.build(recipe), /needs credentials, or does not exist; give .*"--registry-user"/)
    const wrong = { username: 'ada', password: 'guess' }
    await assert.rejects(builder.build(recipe, { credentials: wrong }), /refused the credentials of user "ada"/)
    const { manifest, log } = await builder.build(recipe, { credentials: registryUser })
    const { username, password } = registryUser
    const secrets = [password, Buffer.from(`${username}:${password}`).toString('base64')]
    const told = JSON.stringify([manifest, log])
    for (const secret of secrets) {
      assert.ok(!told.includes(secret))
      const found = await promisify(execFile)('grep', ['-rlF', '--', secret, builder.directory]).catch(
        (error: { code: number }) => error,
      )
      assert.equal('code' in found && found.code, 1, 'a secret is left on disk')
    }
    await leavesNothing()
  })

  test('stages, images, texts and URLs are copied from, and only what is needed is built', async () => {
    let second = 'two'
    const asked: string[] = []
    const server = createServer((request, response) => {
      asked.push(request.url ?? '')
      if (request.url === '/moved') response.writeHead(302, { location: '/second' }).end()
      else response.end(request.url === '/second' ? second : 'one')
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    try {
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      const text = stages(url, createHash('sha256').update('two').digest('hex')).replace('IMAGE', from.image)
      const recipe = { ...readDockerfile(text, { file: 'Dockerfile' }).recipe, from }
      const named = { ...recipe, stages: recipe.stages?.map((stage) => ({ ...stage, from })) }
      await assert.rejects(
        builder.build(named),
        /Dockerfile:\d+: cannot fetch .*\/first%20file: 127\.0\.0\.1 is an address of the node itself/,
      )
      builder.parts.reachability = () => 'reachable'
      const { log } = await builder.build(named)
      const messages = log.map(({ message }) => message)
      assert.ok(messages.includes('stage "files"') && messages.includes('stage "more"'), messages.join('\n'))
      assert.ok(!messages.some((message) => message.includes('RUN exit 1')))
      await leavesNothing()

      asked.length = 0
      const again = await builder.build(named)
      assert.ok(again.log.every(({ message }) => !message.includes('booting a machine for the steps')))
      assert.deepEqual(asked, ['/first%20file?secret=1'], 'what has a checksum is not fetched again')

      // One more COPY from a stage that is all layers: a machine is booted of it, and nothing is run again.
      const appended = readDockerfile(`${text}COPY --from=more /out/more /last\nRUN test -e /last\n`, {
        file: 'Dockerfile',
      })
      const third = await builder.build({ ...appended.recipe, from, stages: named.stages })
      const said = third.log.map(({ message }) => message)
      assert.ok(
        said.includes('booting a machine to copy from') && said.includes('CACHED RUN echo more > /out/more'),
        said.join('\n'),
      )
      assert.ok(!said.includes('stage "files"'))

      second = 'changed'
      await assert.rejects(
        builder.build({ ...named, steps: named.steps.filter(({ text: each }) => each.startsWith('ADD --checksum')) }),
        /Dockerfile:\d+: ADD --checksum=.* has the checksum sha256:[0-9a-f]{64}, not the one that is asked for/,
      )
      const gone = readDockerfile('FROM a AS x\nRUN true\nFROM a\nCOPY --from=x /gone /\n', {
        file: 'Dockerfile',
      }).recipe
      await assert.rejects(
        builder.build({ ...gone, from, stages: gone.stages?.map((stage) => ({ ...stage, from })) }),
        /Dockerfile:4: COPY --from=x \/gone \/: cannot copy "\/gone": stage "x" has nothing of that name/,
      )
      await leavesNothing()
    } finally {
      builder.parts.reachability = undefined
      server.close()
    }
  })

  test('the ONBUILD instructions of an image come before the steps, and their files with the whole context', async () => {
    const place = join(builder.directory, 'onbuild')
    await mkdir(place)
    const onBuild = ['ARG WHAT=nothing', 'ENV MADE=$WHAT', 'COPY app/main.sh /triggered/', 'RUN echo "$MADE" > /made']
    const parent = { image: `oci:${await makeImage(place, { onBuild })}:image` }
    const { recipe } = readDockerfile('FROM x\nRUN echo "$MADE $WHAT $(cat /made) $(ls /triggered)"', { file: 'F' })
    const wanted = { ...recipe, from: parent, buildArgs: { WHAT: 'bread' } }
    await assert.rejects(
      builder.build(wanted),
      /copies files of the build context \("ONBUILD COPY .*"\), which was not sent; .*--whole-context/,
    )
    const { log, manifest } = await builder.build({ ...wanted, wholeContext: true }, { context })
    assert.deepEqual(
      log.filter(({ level }) => level === 'output').map(({ message }) => message),
      ['bread bread bread main.sh'],
    )
    assert.equal(manifest.defaults.env['MADE'], 'bread')
    const again = await builder.build({ ...wanted, wholeContext: true }, { context })
    assert.ok(again.log.some(({ message }) => message === 'CACHED ONBUILD COPY app/main.sh /triggered/'))
    await leavesNothing()
  })

  test('commands find mounts while they run, and nothing of them is left', async () => {
    const text = `FROM anything AS made
RUN mkdir /out && echo made > /out/made
FROM anything
WORKDIR /srv
RUN --mount=type=bind,target=ctx,rw --mount=type=bind,from=made,source=/out/made,target=/one \\
  --mount=type=bind,from=made,source=/out,target=/all --mount=type=tmpfs,target=/scratch,size=1MiB \\
  --mount=type=secret,id=token,uid=1234 --mount=type=secret,id=token,env=TOKEN <<EOF
  set -e
  cat ctx/app/main.sh > /dev/null && touch ctx/mine
  cat /one /all/made
  ! touch /one /all/new 2> /dev/null
  grep -q " /scratch tmpfs " /proc/mounts
  test "$(stat -c '%u:%a' /run/secrets/token)" = 1234:400
  ! touch /run/secrets/token 2> /dev/null
  test "$(cat /run/secrets/token)" = "$TOKEN"
  echo "it is $TOKEN"
EOF
RUN --mount=type=cache,target=/var/cache/app,uid=1234 cd /var/cache/app && date >> n && wc -l < n && stat -c %u .
RUN for each in /srv/ctx /one /all /scratch /var/cache /run/secrets /.tutti-mounts; do test ! -e $each || exit 1; done
`
    const secret = 'xyzzy-of-the-token'
    const secrets = { token: Buffer.from(secret).toString('base64') }
    const recipe = (more = '') => {
      const read = readDockerfile(text + more, { file: 'Dockerfile' }).recipe
      return { ...read, from, stages: read.stages?.map((stage) => ({ ...stage, from })) ?? [] }
    }
    const said = (log: { level: string; message: string }[]) =>
      log.filter(({ level }) => level !== 'info').map(({ message }) => message)
    const { log } = await builder.build(recipe(), { context, secrets })
    assert.deepEqual(said(log), ['made', 'made', 'it is (hidden)', '1', '1234'])
    assert.ok(!JSON.stringify(log).includes(secret))
    // Neither another secret nor none makes it another step, and the next build finds the cache.
    const more = 'RUN --mount=type=cache,target=/var/cache/app,readonly wc -l < /var/cache/app/n\n'
    assert.deepEqual(said((await builder.build(recipe(more), { context })).log), ['1'])
    const required = readDockerfile('FROM a\nRUN --mount=type=secret,id=key,required true', {
      file: 'Dockerfile',
    }).recipe
    await assert.rejects(
      builder.build({ ...required, from }),
      /Dockerfile:2: .*secret "key" is required and was not given/,
    )
    await leavesNothing()
  })

  test('an image of one program, begun from nothing, takes files and becomes a template', async () => {
    const text = `FROM a AS tools
RUN echo text > /text
FROM scratch
COPY --from=tools /bin/busybox /bin/
WORKDIR /new/place
COPY --from=tools --chown=1234:77 --chmod=600 /text .
COPY <<EOF one
1
EOF
RUN ["/bin/busybox", "stat", "-c", "%n %u:%g:%a", "/new/place", "text", "one"]
ENTRYPOINT ["/bin/busybox", "sleep", "1000"]
`
    const { recipe } = readDockerfile(text, { file: 'Dockerfile' })
    const stages = recipe.stages?.map((stage) => ({ ...stage, from })) ?? []
    const { log } = await builder.build({ ...recipe, stages })
    const said = log.filter(({ level }) => level === 'output').map(({ message }) => message)
    assert.deepEqual(said, ['/new/place 0:0:755', 'text 1234:77:600', 'one 0:0:644'])
    await assert.rejects(
      builder.build({
        ...{ from: recipe.from, stages },
        steps: [...recipe.steps, { step: { kind: 'run', command: 'true' }, place: 'Dockerfile:9', text: 'RUN true' }],
      }),
      /Dockerfile:9: RUN true: .*\/bin\/sh/,
    )
    await leavesNothing()
  })

  test('an ordinary user builds too, and files belong to whom the image says', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'tutti-user-'))
    try {
      const owner = { '/home/guest': '1234:1234', '/etc/secret': '0:77' }
      const mode = { '/etc/secret': '0', '/bin/busybox': '4755' }
      const layout = await makeImage(directory, { files: { '/etc/secret': 'x' }, owner, mode })
      await execute('chmod', ['-R', 'a+rX', directory])
      const home = join(directory, 'home')
      await mkdir(home)
      await chown(home, 65534, 65534)
      const script = new URL('../fixtures/build-as-user.ts', import.meta.url).pathname
      const { stdout } = await execute(process.execPath, [script, layout], {
        ...{ uid: 65534, gid: 65534, cwd: home },
        env: { ...process.env, HOME: home, TMPDIR: home, XDG_RUNTIME_DIR: home },
      })
      const lines = stdout.trim().split('\n')
      assert.deepEqual(lines.slice(0, 5), [
        '/ 0:0:755',
        '/bin/busybox 0:0:4755',
        '/home/guest 1234:1234:755',
        '/etc/secret 0:77:0',
        '/copied/busybox 0:0:4755',
      ])
      assert.match(lines[5] ?? '', /uid=1234/)
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  })

  test('a step that fails says where, how and with which words; what was done before it is kept', async () => {
    const text = 'FROM x\nRUN echo one > /one\nRUN echo "no such thing" >&2; exit 7\n'
    await assert.rejects(
      builder.build(read(text)),
      /^Fault: Dockerfile:3: RUN echo .*: failed with exit code 7: no such thing$/,
    )
    await leavesNothing()
    const log: string[] = []
    const fixed = text.replace('exit 7', 'dd if=/dev/zero of=/big bs=1M count=500')
    await assert.rejects(
      builder.build(read(fixed), { progress: ({ message }) => log.push(message) }),
      /^Fault: Dockerfile:3: .* the disk of the template is full at 256 MiB; ask for a larger one/,
    )
    assert.ok(log.includes('CACHED RUN echo one > /one'), log.join('\n'))
    await leavesNothing()
  })

  test('a start command that ends and a ready check that never answers are told', async () => {
    const failing = { from, start: 'echo "cannot bind" >&2; exit 3', ready: { command: 'false' } }
    await assert.rejects(builder.build(failing), /^Fault: the start command ended with exit code 3 .*: cannot bind$/)
    const waiting = { from, ready: { command: 'echo still starting; exit 1', timeoutMs: 2000 } }
    await assert.rejects(
      builder.build(waiting),
      /not ready within 2 s; "echo still starting; exit 1" said last: exit code 1: still starting/,
    )
    await leavesNothing()
  })

  test('a build that is called off leaves nothing and has no name', async () => {
    const off = new AbortController()
    const called = builder.build(
      { from, steps: [{ step: { kind: 'run', command: 'sleep 100' }, place: 'Dockerfile:2', text: 'RUN sleep 100' }] },
      { template: 'off', signal: off.signal, progress: ({ message }) => message === 'RUN sleep 100' && off.abort() },
    )
    await assert.rejects(called, { name: 'AbortError' })
    await leavesNothing()
  })

  test('what cannot be begun from is told before any machine is started', async () => {
    await assert.rejects(builder.build({ from: { template: 'gone' } }), /there is no template "gone" to begin from/)
    await assert.rejects(
      builder.build({ from: { image: 'oci-archive:/no/such.tar' } }),
      /"oci-archive:\/no\/such\.tar" does not exist on this node/,
    )
    await assert.rejects(builder.build({ from: { image: 'oci-archive:relative.tar' } }), /lacks an absolute path/)
    const other = builder.parts.vmm && process.arch === 'x64' ? ('arm64' as const) : ('amd64' as const)
    await assert.rejects(
      builder.build({ from, arch: other }),
      new RegExp(`the recipe is for ${other}, and this node is`),
    )
    const directory = join(builder.directory, 'other')
    await mkdir(directory)
    const layout = await makeImage(directory, { architecture: other })
    await assert.rejects(
      builder.build({ from: { image: `oci:${layout}:image` } }),
      new RegExp(`is for ${other}, and this node is`),
    )
    const text = 'FROM x\nCOPY gone /\n'
    const steps = readDockerfile(text, { file: 'Dockerfile' }).recipe.steps
    await assert.rejects(builder.build({ from, steps }), /Dockerfile:2: cannot copy "gone"/)
    await leavesNothing()
  })
})
