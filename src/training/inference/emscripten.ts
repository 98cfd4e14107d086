/** What is used of the options of an Emscripten module. */
export type ModuleOptions = {
  noInitialRun: boolean;
  print: () => void;
  printErr: () => void;
  instantiateWasm: (
    imports: WebAssembly.Imports,
    done: (instance: WebAssembly.Instance) => void,
  ) => WebAssembly.Exports;
};

/**
 * Options of a module that prints nothing and whose binary is compiled already: left to itself it would fetch it, which
 * neither the Worker nor Node does for files.
 * @param more imports beside those that the module's glue gives
 */
export const moduleOptions = (module: WebAssembly.Module, more: WebAssembly.Imports = {}): ModuleOptions => ({
  noInitialRun: true,
  print: () => undefined,
  printErr: () => undefined,
  instantiateWasm: (imports, done) => {
    const instance = new WebAssembly.Instance(module, { ...imports, ...more });
    done(instance);
    return instance.exports;
  },
});
