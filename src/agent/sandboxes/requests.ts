import type { Sandboxes } from '../../sandboxes/sandboxes.ts'
import type { SandboxRequest } from '../../wire/sandbox.ts'
import type { Commands } from './commands.ts'
import type { TemplateBuilder } from './template-builder.ts'

interface Parts {
  sandboxes: Sandboxes
  builder: TemplateBuilder
  commands: Commands
}

/** Carries out one question about a sandbox; what comes back is the answer's JSON. */
export async function answerRequest(
  { sandboxes, builder, commands }: Parts,
  request: SandboxRequest,
  options: { signal: AbortSignal },
): Promise<object> {
  switch (request.op) {
    case 'create':
      await sandboxes.create(request.spec, options)
      return {}
    case 'pause':
      return sandboxes.pause(request.id, { build: request.build, ...options })
    case 'resume':
      await sandboxes.resume(request.spec, options)
      return {}
    case 'snapshot':
      return sandboxes.snapshot(request.id, { build: request.build, ...options })
    case 'fork': {
      const { id, build, children } = request
      return { children: await sandboxes.fork(id, { build, children, ...options }) }
    }
    case 'kill':
      await sandboxes.kill(request.id)
      return {}
    case 'egress':
      await sandboxes.setEgress(request.id, request.egress)
      return {}
    case 'console':
      return { text: await sandboxes.console(request.id) }
    case 'forgetBuild':
      await builder.forget(request.build)
      return {}
    case 'adoptBuild':
      return builder.adopt(request.build)
    default:
      return inGuest({ sandboxes, commands }, request, options)
  }
}

type GuestRequest = Extract<
  SandboxRequest,
  { op: 'metrics' | 'stat' | 'list' | 'mkdir' | 'move' | 'remove' | 'processes' | 'signal' | 'input' }
>

async function inGuest(
  { sandboxes, commands }: Omit<Parts, 'builder'>,
  request: GuestRequest,
  options: { signal: AbortSignal },
): Promise<object> {
  const { channel } = await sandboxes.guest(request.id)
  switch (request.op) {
    case 'metrics':
      return channel.metrics(options)
    case 'processes':
      return { processes: await channel.processes(options) }
    case 'signal':
      await commands.signal(channel, request, options)
      return {}
    case 'input':
      await commands.write(channel, { ...request, data: Buffer.from(request.data, 'base64') }, options)
      return {}
    case 'stat':
      return channel.files.stat(request.path, options)
    case 'list':
      return { entries: await channel.files.list(request.path, options) }
    case 'mkdir':
      await channel.files.makeDirectory(request.path, options)
      return {}
    case 'move':
      await channel.files.move(request.path, request.to, options)
      return {}
    case 'remove':
      await channel.files.remove(request.path, options)
      return {}
    default:
      return request satisfies never
  }
}
