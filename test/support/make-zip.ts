import { crc32, deflateRawSync } from "node:zlib";
import { concatenate } from "../../src/shared/memory.ts";

/** One entry of a made zip; every field can be made to lie. */
export type MadeEntry = {
  name: string | Uint8Array;
  content?: string | Uint8Array;
  method?: number;
  flags?: number;
  externalAttributes?: number;
  versionMadeBy?: number;
  extra?: Uint8Array;
  localExtra?: Uint8Array;
  /** Overrides in the directory record. */
  directory?: Partial<{ crc: number; compressedSize: number; size: number; offset: number; name: Uint8Array }>;
  /** Overrides in the local header. */
  local?: Partial<{
    crc: number;
    compressedSize: number;
    size: number;
    name: Uint8Array;
    method: number;
    flags: number;
    signature: number;
  }>;
  /** Sizes and checksum behind the data, zeros before them (flag bit 3). */
  descriptor?: boolean;
  zip64?: boolean;
  /** In place of the compressed content. */
  packed?: Uint8Array;
};

export type ZipOptions = {
  comment?: Uint8Array;
  prefix?: Uint8Array;
  zip64End?: boolean;
  end?: Partial<{ count: number; directorySize: number; directoryOffset: number; disk: number }>;
  zip64?: Partial<{ count: bigint }>;
};

const bytes = (value: string | Uint8Array | undefined): Uint8Array =>
  typeof value === "string" ? new TextEncoder().encode(value) : (value ?? new Uint8Array(0));

const UTF8 = 1 << 11;

/** A zip written field by field, so that tests can break each of them. Names outside ASCII get the UTF-8 flag. */
export function makeZip(entries: MadeEntry[], options: ZipOptions = {}): Uint8Array<ArrayBuffer> {
  const out: Uint8Array[] = [bytes(options.prefix)];
  let offset = out[0]?.length ?? 0;
  const push = (part: Uint8Array) => {
    out.push(part);
    offset += part.length;
  };
  const directory: Uint8Array[] = [];
  for (const entry of entries) {
    const name = bytes(entry.name);
    const content = bytes(entry.content);
    const method = entry.method ?? (content.length > 0 ? 8 : 0);
    const packed = entry.packed ?? (method === 8 ? deflateRawSync(content) : content);
    const crc = crc32(content);
    const isText = typeof entry.name === "string" && name.some((byte) => byte > 127);
    const flags = entry.flags ?? (isText ? UTF8 : 0) | (entry.descriptor ? 8 : 0);
    const at = offset;
    const zip64Local = entry.zip64 ? extraField(1, u64(content.length), u64(packed.length)) : new Uint8Array(0);
    const localName = entry.local?.name ?? name;
    const localExtra = concatenate([zip64Local, bytes(entry.localExtra)]);
    push(
      concatenate([
        u32(entry.local?.signature ?? 0x04034b50),
        u16(20),
        u16(entry.local?.flags ?? flags),
        u16(entry.local?.method ?? method),
        u32(0),
        u32(entry.local?.crc ?? (entry.descriptor ? 0 : crc)),
        u32(entry.local?.compressedSize ?? (entry.zip64 ? 0xffffffff : entry.descriptor ? 0 : packed.length)),
        u32(entry.local?.size ?? (entry.zip64 ? 0xffffffff : entry.descriptor ? 0 : content.length)),
        u16(localName.length),
        u16(localExtra.length),
        localName,
        localExtra,
      ]),
    );
    push(packed);
    if (entry.descriptor) push(concatenate([u32(0x08074b50), u32(crc), u32(packed.length), u32(content.length)]));
    const recordName = entry.directory?.name ?? name;
    const size = entry.directory?.size ?? content.length;
    const compressedSize = entry.directory?.compressedSize ?? packed.length;
    const recordOffset = entry.directory?.offset ?? at;
    const zip64Extra = entry.zip64
      ? extraField(1, u64(size), u64(compressedSize), u64(recordOffset))
      : new Uint8Array(0);
    const extra = concatenate([bytes(entry.extra), zip64Extra]);
    directory.push(
      concatenate([
        u32(0x02014b50),
        u16(entry.versionMadeBy ?? 20),
        u16(20),
        u16(flags),
        u16(method),
        u32(0),
        u32(entry.directory?.crc ?? crc),
        u32(entry.zip64 ? 0xffffffff : compressedSize),
        u32(entry.zip64 ? 0xffffffff : size),
        u16(recordName.length),
        u16(extra.length),
        u16(0),
        u16(0),
        u16(0),
        u32(entry.externalAttributes ?? 0),
        u32(entry.zip64 ? 0xffffffff : recordOffset),
        recordName,
        extra,
      ]),
    );
  }
  const directoryOffset = offset;
  for (const record of directory) push(record);
  const directorySize = offset - directoryOffset;
  const comment = bytes(options.comment);
  if (options.zip64End) {
    const endOffset = offset;
    push(
      concatenate([
        u32(0x06064b50),
        u64(44),
        u16(45),
        u16(45),
        u32(0),
        u32(0),
        u64(options.zip64?.count ?? entries.length),
        u64(options.zip64?.count ?? entries.length),
        u64(directorySize),
        u64(directoryOffset),
      ]),
    );
    push(concatenate([u32(0x07064b50), u32(0), u64(endOffset), u32(1)]));
  }
  const count = options.end?.count ?? (options.zip64End ? 0xffff : entries.length);
  push(
    concatenate([
      u32(0x06054b50),
      u16(options.end?.disk ?? 0),
      u16(0),
      u16(count),
      u16(count),
      u32(options.end?.directorySize ?? (options.zip64End ? 0xffffffff : directorySize)),
      u32(options.end?.directoryOffset ?? (options.zip64End ? 0xffffffff : directoryOffset)),
      u16(comment.length),
      comment,
    ]),
  );
  return concatenate(out);
}

/** An extra field: id, length, content. */
export function extraField(id: number, ...content: Uint8Array[]): Uint8Array {
  const body = concatenate(content);
  return concatenate([u16(id), u16(body.length), body]);
}

export const u16 = (value: number) => little(2, (view) => view.setUint16(0, value, true));
export const u32 = (value: number) => little(4, (view) => view.setUint32(0, value, true));
export const u64 = (value: number | bigint) => little(8, (view) => view.setBigUint64(0, BigInt(value), true));

function little(length: number, write: (view: DataView) => void): Uint8Array {
  const buffer = new ArrayBuffer(length);
  write(new DataView(buffer));
  return new Uint8Array(buffer);
}
