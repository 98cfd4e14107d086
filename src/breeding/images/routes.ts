import type { Context } from "hono";
import { type Content, serveContent } from "../../http/content.ts";
import type { AppEnv } from "../../http/create-api.ts";
import { createApi } from "../../http/create-api.ts";
import { AppError } from "../../shared/errors.ts";
import { breedingEnvelope } from "../messages.ts";

/** A numbered picture never changes. */
const IMMUTABLE = "public, max-age=31536000, immutable";
/** The address of a strain's picture stays when the picture changes. */
const REVALIDATED = "public, max-age=300, must-revalidate";

async function answer(c: Context<AppEnv>, content: Content, cacheControl: string): Promise<Response> {
  const response = await serveContent(c.req.raw, content);
  response.headers.set("cache-control", cacheControl);
  response.headers.set("x-request-id", c.get("requestId"));
  return response;
}

/** `/images/*`: open in both phases, since an `<img>` sends no token. */
export function createImageRoutes() {
  return createApi(breedingEnvelope)
    .get("/tomato/predictions/:year/:month/:file", async (c) => {
      const { year, month, file } = c.req.param();
      return answer(c, await c.get("services").breeding.pictures.crossContent(year, month, file), IMMUTABLE);
    })
    .get("/tomato/strains/:file", async (c) => {
      const file = c.req.param("file").normalize("NFC");
      if (!file.endsWith(".png")) throw new AppError("FILE_NOT_FOUND", "이미지를 찾을 수 없습니다");
      const id = file.slice(0, -".png".length);
      return answer(c, await c.get("services").breeding.strains.picture(id), REVALIDATED);
    });
}
