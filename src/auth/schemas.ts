import { z } from "@hono/zod-openapi";
import { plainText } from "../http/fields.ts";
import { EmailSchema } from "./email.ts";
import { MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH } from "./password.ts";

const anyPassword = z.string().min(1).max(MAX_PASSWORD_LENGTH);

export const LoginRequestSchema = z
  .object({ email: EmailSchema, password: anyPassword })
  .openapi("LoginRequest", { example: { email: "user@example.com", password: "password123" } });

const UserSchema = z
  .object({ id: z.number().int(), email: z.string(), full_name: z.string() })
  .openapi("User", { example: { id: 1, email: "user@example.com", full_name: "John Doe" } });

export const LoginResponseSchema = z
  .object({
    access_token: z.string().openapi({ example: "eyJhbGciOiJIUzI1NiIs..." }),
    token_type: z.literal("bearer"),
    expires_in: z.number().int().openapi({ description: "Seconds until the token ends", example: 43200 }),
    user: UserSchema,
  })
  .openapi("LoginResponse");

export const MeSchema = z
  .object({
    id: z.number().int(),
    email: z.string(),
    full_name: z.string(),
    is_admin: z.boolean(),
    default_project_id: z.number().int().nullable().openapi({ description: "Where things go that name no project" }),
    credential: z.enum(["access_token", "api_token"]).openapi({ description: "What this request came with" }),
    created_at: z.string(),
  })
  .openapi("Me", {
    example: {
      id: 1,
      email: "user@example.com",
      full_name: "John Doe",
      is_admin: false,
      default_project_id: 1,
      credential: "access_token",
      created_at: "2025-11-06T12:00:00Z",
    },
  });

export const ChangePasswordSchema = z
  .object({
    current_password: anyPassword,
    new_password: z
      .string()
      .min(MIN_PASSWORD_LENGTH)
      .max(MAX_PASSWORD_LENGTH)
      .openapi({ description: "Neither the e-mail address nor the current password" }),
    revoke_api_tokens: z.boolean().default(false).openapi({ description: "End the personal API tokens too" }),
  })
  .openapi("ChangePassword", {
    example: { current_password: "password123", new_password: "correct horse battery", revoke_api_tokens: false },
  });

export const CreateApiTokenSchema = z
  .object({
    name: plainText({ min: 1, max: 100 }),
    expires_in_days: z.number().int().min(1).max(3_650).nullish().openapi({ description: "Absent: until revoked" }),
  })
  .openapi("CreateApiToken", { example: { name: "nightly import", expires_in_days: 90 } });

const apiToken = {
  id: z.number().int(),
  name: z.string(),
  hint: z.string().openapi({ description: "The token's last characters" }),
  created_at: z.string(),
  expires_at: z.string().nullable(),
};
const API_TOKEN = {
  id: 7,
  name: "nightly import",
  hint: "9f3a",
  created_at: "2025-11-06T12:00:00Z",
  expires_at: "2026-02-04T12:00:00Z",
};

export const CreatedApiTokenSchema = z
  .object({ ...apiToken, token: z.string().openapi({ description: "Shown this once" }) })
  .openapi("CreatedApiToken", { example: { ...API_TOKEN, token: "cvp_000000000001..." } });

export const ApiTokenListSchema = z
  .object({ tokens: z.array(z.object(apiToken).openapi("ApiToken", { example: API_TOKEN })) })
  .openapi("ApiTokenList");
