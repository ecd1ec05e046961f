import createClient, { type Client, type ClientOptions } from "openapi-fetch";
import type { paths } from "./schema.js";

export type * from "./schema.js";

type Json = "application/json" | "application/problem+json";

/** A client of the tagfit at `baseUrl`, this machine's unless it is given; it asks for JSON. */
export function tagfit(options: ClientOptions = {}): Client<paths, Json> {
  return createClient<paths, Json>({ baseUrl: "http://127.0.0.1:11435", ...options });
}
