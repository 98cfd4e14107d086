/** Every R2 key of the platform, in one table. Prefixes end in `/`, so that `jobs/1` never matches `jobs/10`. */
export const keys = {
  datasetPrefix: (datasetId: string) => `datasets/${datasetId}/`,
  datasetObject: (datasetId: string, objectName: string) => `datasets/${datasetId}/${objectName}`,
  jobPrefix: (jobId: number) => `jobs/${jobId}/`,
  artifact: (jobId: number, attempt: number, artifactId: string) => `jobs/${jobId}/${attempt}/${artifactId}`,
};
