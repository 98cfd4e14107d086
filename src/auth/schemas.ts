import { z } from "@hono/zod-openapi";
import { MAX_PASSWORD_LENGTH } from "./password.ts";

/** E-mail addresses are compared in lower case. The pattern is linear in time: one `@`, no spaces, a dot in the domain. */
export const EmailSchema = z
  .string()
  .max(254)
  .regex(/^[^\s@]{1,64}@[^\s@.]+(\.[^\s@.]+)+$/, "must be an e-mail address")
  .transform((text) => text.toLowerCase());

export const LoginRequestSchema = z
  .object({
    email: EmailSchema,
    password: z.string().min(1).max(MAX_PASSWORD_LENGTH),
  })
  .openapi("LoginRequest", { example: { email: "user@example.com", password: "password123" } });

export const LoginResponseSchema = z
  .object({
    access_token: z.string(),
    token_type: z.literal("bearer"),
    expires_in: z.number().int().openapi({ description: "Seconds until the token ends" }),
    user: z.object({ id: z.number().int(), email: z.string(), full_name: z.string() }),
  })
  .openapi("LoginResponse");
