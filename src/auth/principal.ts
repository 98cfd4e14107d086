import { and, eq, isNull } from "drizzle-orm";
import type { Db } from "../db/client.ts";
import { users } from "../db/schema/index.ts";

/** Who a verified token says is calling. Whether that user still exists is asked together with the data, see `me`. */
export type Principal = { userId: number; tokenVersion: number };

/**
 * The caller as a common table expression of one row, or of none when the user is gone, disabled or has ended the token.
 * A query selects `from(me)` and left-joins what it wants: no row at all means 401, a row without the data means 404.
 */
export const me = (db: Db, principal: Principal) =>
  db.$with("me").as(
    db
      .select({ id: users.id, isAdmin: users.isAdmin })
      .from(users)
      .where(
        and(eq(users.id, principal.userId), eq(users.tokenVersion, principal.tokenVersion), isNull(users.disabledAt)),
      ),
  );
