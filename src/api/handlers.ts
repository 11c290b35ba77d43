import type { z } from 'zod'
import type { Endpoint } from '../contract/endpoint.ts'
import type { EndpointName, Endpoints, SocketName } from '../contract/endpoints.ts'
import type { EventAnswer, OctetAnswer, ParsedRequest } from '../http/route.ts'

/** What a handler of an endpoint is given and must return, worked out from the contract. */
export type HandlerOf<E extends Endpoint> = (request: RequestOf<E>) => Promise<AnswerOf<E>> | AnswerOf<E>

export type Handlers = { [N in Exclude<EndpointName, SocketName>]: HandlerOf<Endpoints[N]> }

type RequestOf<E extends Endpoint> = Omit<ParsedRequest, 'params' | 'query' | 'body'> & {
  params: Part<E, 'params'>
  query: Part<E, 'query'>
  body: Part<E, 'body'>
}

type Part<E extends Endpoint, P extends 'params' | 'query' | 'body'> = E extends { [K in P]: infer S extends z.ZodType }
  ? z.output<S>
  : undefined

type AnswerOf<E extends Endpoint> = E extends { stream: 'octets' }
  ? OctetAnswer
  : E extends { stream: 'events' }
    ? EventAnswer
    : E extends { answer: infer S extends z.ZodType }
      ? z.input<S>
      : undefined
