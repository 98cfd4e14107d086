/** Every R2 key of the platform, in one table. Prefixes end in `/`, so that `jobs/1` never matches `jobs/10`. */
export const keys = {
  datasetPrefix: (datasetId: string) => `datasets/${datasetId}/`,
  datasetObject: (datasetId: string, objectName: string) => `datasets/${datasetId}/${objectName}`,
  jobPrefix: (jobId: number) => `jobs/${jobId}/`,
  artifact: (jobId: number, attempt: number, artifactId: string) => `jobs/${jobId}/${attempt}/${artifactId}`,
  jobLog: (jobId: number, attempt: number) => `jobs/${jobId}/${attempt}/log.ndjson`,
  breedingModel: (version: string) => `breeding/models/${version}.bin`,
  /** Served at the same path: `images/tomato/predictions/2025/11/cross_TC1_022_TC1_023_01.png`. */
  crossPicture: (month: string, fileName: string) => `images/tomato/predictions/${month}/${fileName}`,
  strainPicturePrefix: (strainId: string) => `images/tomato/strains/${strainId}/`,
  strainPicture: (strainId: string, contentHash: string) => `images/tomato/strains/${strainId}/${contentHash}.png`,
};
