import { z } from "zod";

/** E-mail addresses are compared in lower case. The pattern is linear in time: one `@`, no spaces, a dot in the domain. */
export const EmailSchema = z
  .string()
  .max(254)
  .regex(/^[^\s@]{1,64}@[^\s@.]+(\.[^\s@.]+)+$/, "must be an e-mail address")
  .transform((text) => text.toLowerCase());
